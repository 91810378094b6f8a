"""oneDNN's headers: Paddle's wheel has the library without them, and a package on the index has them alone."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from ..utils.errors import UserError

DISTRIBUTION = "onednn-devel"
RELEASE = "2025.0"  # oneDNN 3.6, as in Paddle 3.0 to 3.3; later 3.x understand it
REQUIREMENT = f"{DISTRIBUTION}=={RELEASE}.*"
FOLDER = "oneapi/dnnl"
CONFIGURATION = "dnnl_config.h"
SECONDS = 120
# The package describes a build for SYCL; Paddle's is for OpenMP and CPUs.
SETTINGS = {
    "DNNL_CPU_THREADING_RUNTIME": "DNNL_RUNTIME_OMP",
    "DNNL_CPU_RUNTIME": "DNNL_RUNTIME_OMP",
    "DNNL_GPU_RUNTIME": "DNNL_RUNTIME_NONE",
    "DNNL_GPU_VENDOR": "DNNL_VENDOR_NONE",
}


def provide(folder: Path) -> None:
    """Put the headers into ``folder``/oneapi/dnnl: from the installed package if it is of the right release, else
    downloaded with pip.

    Raises:
        UserError: they cannot be had; says why.
    """
    files = _installed() or _downloaded(folder)
    (folder / FOLDER).mkdir(parents=True)
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"oneDNN's headers: {path} cannot be read ({error.strerror})") from error
        (folder / FOLDER / path.name).write_bytes(content)
    configuration = folder / FOLDER / CONFIGURATION
    if not configuration.is_file():
        raise UserError(f"the package {DISTRIBUTION} has no {FOLDER}/{CONFIGURATION}; install {REQUIREMENT}")
    configuration.write_text(adapted(configuration.read_text(encoding="utf-8")), encoding="utf-8")


def adapted(configuration: str) -> str:
    """``dnnl_config.h`` for Paddle's build of oneDNN."""
    for name, value in SETTINGS.items():
        configuration = re.sub(rf"(?m)^#define {name} .*$", f"#define {name} {value}", configuration)
    return re.sub(r"(?m)^#define DNNL_WITH_SYCL\b.*$", "", configuration)


def _is_header(path: str) -> bool:
    return path.endswith((".h", ".hpp")) and FOLDER in path


def _installed() -> list[Path]:
    try:
        if not f"{metadata.version(DISTRIBUTION)}.".startswith(f"{RELEASE}."):
            return []
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [path for path in (Path(file.locate()) for file in files if _is_header(str(file))) if path.is_file()]


def _downloaded(folder: Path) -> list[Path]:
    packages, unpacked = folder / "packages", folder / "unpacked"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(packages), REQUIREMENT]
    advice = (
        f"where pip reaches an index, pip download --no-deps '{REQUIREMENT}', and pip install here the file that this "
        "brings"
    )
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"oneDNN's headers: no download within {SECONDS} s; {advice}") from error
    wheels = sorted(packages.glob("*.whl"))
    if process.returncode or not wheels:
        errors = process.stderr.splitlines()
        lines = [line for line in errors if line.startswith("ERROR")] or errors or ["pip found nothing"]
        raise UserError(f"oneDNN's headers cannot be downloaded ({lines[-1].strip()}); {advice}")
    try:
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(unpacked, [name for name in archive.namelist() if _is_header(name)])
    except zipfile.BadZipFile as error:
        raise UserError(f"oneDNN's headers: {wheels[0].name} came broken ({error}); {advice}") from error
    return [path for path in unpacked.rglob("*") if path.is_file()]

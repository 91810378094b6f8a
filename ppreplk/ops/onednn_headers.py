"""oneDNN's headers. Paddle's wheel has the library without them; the package ``onednn-devel`` has the headers alone."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from ..utils.errors import UserError

DISTRIBUTION = "onednn-devel"
RELEASE = "2025.0"  # oneDNN 3.6, as in Paddle 3.0 to 3.3; later 3.x understand it
REQUIREMENT = f"{DISTRIBUTION}=={RELEASE}.*"
HOW_TO = (
    f"pip install --no-deps '{REQUIREMENT}' brings them (0.2 MB); pip install 'ppreplk[onednn]' does too, with what "
    "that package requires (2 GB)"
)
FOLDER = "oneapi/dnnl"
CONFIGURATION = "dnnl_config.h"
# The package describes a build for SYCL; Paddle's is for OpenMP and CPUs.
SETTINGS = {
    "DNNL_CPU_THREADING_RUNTIME": "DNNL_RUNTIME_OMP",
    "DNNL_CPU_RUNTIME": "DNNL_RUNTIME_OMP",
    "DNNL_GPU_RUNTIME": "DNNL_RUNTIME_NONE",
    "DNNL_GPU_VENDOR": "DNNL_VENDOR_NONE",
}


def provide(folder: Path) -> None:
    """Copy the headers of the installed package into ``folder``/oneapi/dnnl, adapted to Paddle's build of oneDNN.

    Raises:
        UserError: the package is not installed, or another release of it, or it is damaged; says which.
    """
    files = _installed()
    (folder / FOLDER).mkdir(parents=True)
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _refusal(f"{path} cannot be read ({error.strerror})") from error
        (folder / FOLDER / path.name).write_bytes(content)
    configuration = folder / FOLDER / CONFIGURATION
    if not configuration.is_file():
        raise _refusal(f"the installed {DISTRIBUTION} has no {FOLDER}/{CONFIGURATION}")
    configuration.write_text(adapted(configuration.read_text(encoding="utf-8")), encoding="utf-8")


def adapted(configuration: str) -> str:
    """The content of ``dnnl_config.h`` for Paddle's build of oneDNN."""
    for name, value in SETTINGS.items():
        configuration = re.sub(rf"(?m)^#define {name} .*$", f"#define {name} {value}", configuration)
    return re.sub(r"(?m)^#define DNNL_WITH_SYCL\b.*$", "", configuration)


def _installed() -> list[Path]:
    try:
        version = metadata.version(DISTRIBUTION)
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise _refusal("they are not installed") from error
    if not f"{version}.".startswith(f"{RELEASE}."):
        raise _refusal(f"{DISTRIBUTION} is {version} here, needed is {RELEASE}")
    headers = [file for file in files if FOLDER in str(file) and file.suffix in (".h", ".hpp")]
    return [path for path in (Path(file.locate()) for file in headers) if path.is_file()]


def _refusal(reason: str) -> UserError:
    return UserError(f"oneDNN's headers: {reason}; {HOW_TO}", code="ops.no-onednn-headers")

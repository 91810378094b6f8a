"""The package as it leaves the house: what wheels and source distributions hold, require, and run outside the tree."""

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT

from ppreplk import __version__
from ppreplk.utils.paddle_version import END, OLDEST, REQUIREMENT

SOURCES = ["ppreplk", "configs", "docs", "notebooks", "tools", "tests", ".ci"]
BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info")
HOOK = """
import json, sys
sys.path.insert(0, "")
import build_backend
print(getattr(build_backend, sys.argv[1])(sys.argv[2], *map(json.loads, sys.argv[3:])))
"""

pytestmark = pytest.mark.skipif(
    int(metadata.version("setuptools").partition(".")[0]) < 77, reason="setuptools 77 builds the package, not before"
)


def copy_tree(target: Path) -> Path:
    for name in SOURCES:
        shutil.copytree(ROOT / name, target / name, ignore=BUILT)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, target)
    return target


def hook(tree: Path, name: str, target: Path, site: Path | None = None) -> Path:
    """Run a hook of the build backend as pip does; ``site`` is a site-packages folder to look for Paddle in."""
    target.mkdir(parents=True, exist_ok=True)
    process = run_hook(tree, name, target, site)
    assert process.returncode == 0, process.stderr
    return target / process.stdout.splitlines()[-1]


def run_hook(tree: Path, name: str, target: Path, site: Path | None = None, settings: dict | None = None, **environ):
    """Answers of the compiler and of setup.py are in what it prints."""
    code = HOOK
    if site is not None:
        code = f"import sysconfig; sysconfig.get_path = lambda name, *rest: {str(site)!r}\n" + HOOK
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environ
    command = [sys.executable, "-c", code, name, str(target)] + ([json.dumps(settings)] if settings else [])
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return hook(tree, "build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    return hook(tree, "build_sdist", tmp_path_factory.mktemp("sdist"))


def names_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def metadata_of(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(archive.read(name))


def tracked(folder: str) -> set[str]:
    paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_has_all_of_the_package_and_the_recipes(wheel):
    expected = tracked("ppreplk") | {f"ppreplk/{name}" for name in tracked("configs")}
    assert names_in(wheel) == expected
    archive = zipfile.ZipFile(wheel)
    for name in tracked("configs"):
        assert archive.read(f"ppreplk/{name}") == (ROOT / name).read_bytes()


def test_the_source_distribution_builds_the_same_wheel(sdist, wheel, tmp_path):
    assert sdist.name == f"ppreplk-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path)
    for folder in SOURCES:
        assert tracked(folder) <= names
    again = hook(tmp_path / f"ppreplk-{__version__}", "build_wheel", tmp_path / "again")
    old, new = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert {name: old.read(name) for name in old.namelist()} == {name: new.read(name) for name in new.namelist()}


def test_what_an_earlier_build_left_does_not_travel(tree, tmp_path):
    for name in ("ppreplk/removed.py", "ppreplk/configs/removed.yaml"):
        left = tree / "build" / "lib" / name
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("")
    assert not {name for name in names_in(hook(tree, "build_wheel", tmp_path)) if "removed" in name}


def test_a_wheel_with_the_core(tree, wheel, tmp_path):
    """For one platform, any Python; a stand-in compiles."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho "GLIBC_2.31 object" > "$last"\n')
    compiler.chmod(0o755)
    process = run_hook(tree, "build_wheel", tmp_path, settings={"prebuilt": "core"}, CXX=str(compiler))
    assert process.returncode == 0, process.stderr
    built = tmp_path / process.stdout.splitlines()[-1]
    if sys.platform.startswith("linux"):
        machine = os.uname().machine
        assert built.name == f"ppreplk-{__version__}-py3-none-manylinux_2_31_{machine}.whl"
    assert names_in(built) - names_in(wheel) == {"ppreplk/ops/prebuilt/libppreplk_core.so"}
    assert names_in(wheel) < names_in(built) and metadata_of(built).items() == metadata_of(wheel).items()
    again = hook(tree, "build_wheel", tmp_path / "again")
    assert again.name == wheel.name and names_in(again) == names_in(wheel), "nothing of it stays"


def test_a_wheel_that_cannot_be_prebuilt(tree, tmp_path):
    for setting, compiler, message in (
        ("core", "no-such-compiler", "error: no C++ compiler was found ($CXX is 'no-such-compiler'"),
        ("cores", "g++", "error: prebuilt=cores is neither core nor operators"),
    ):
        process = run_hook(tree, "build_wheel", tmp_path, settings={"prebuilt": setting}, CXX=compiler)
        assert process.returncode and message in process.stderr and not list(tmp_path.glob("*.whl"))


def gpu_paddle(site: Path) -> Path:
    folder = site / "paddlepaddle_gpu-3.3.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: paddlepaddle-gpu\nVersion: 3.3.1\n")
    return site


def paddles(requirements: list[str]) -> list[str]:
    return [text for text in requirements if text.startswith("paddlepaddle") and "extra ==" not in text]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_wheel_requires_the_same_wherever_it_is_built(tree, wheel, tmp_path, gpu):
    site = gpu_paddle(tmp_path / "site") if gpu else tmp_path
    built = hook(tree, "build_wheel", tmp_path / "wheel", site)
    assert metadata_of(built).items() == metadata_of(wheel).items()
    assert paddles(metadata_of(built).get_all("Requires-Dist")) == []


@pytest.mark.parametrize("gpu", [False, True])
def test_an_editable_installation_brings_paddle_unless_the_gpu_wheel_is_there(tree, tmp_path, gpu):
    site = gpu_paddle(tmp_path / "site") if gpu else tmp_path / "site"
    folder = hook(tree, "prepare_metadata_for_build_editable", tmp_path / "metadata", site)
    found = paddles(email.message_from_bytes((folder / "METADATA").read_bytes()).get_all("Requires-Dist"))
    built = paddles(metadata_of(hook(tree, "build_editable", tmp_path / "wheel", site)).get_all("Requires-Dist"))
    assert found == built and len(found) == (0 if gpu else 1)


def test_an_editable_installation_is_a_plain_path(tree, tmp_path):
    """A folder called ``ppreplk`` or ``configs`` cannot shadow it, and it reads the recipes of the tree."""
    names = names_in(hook(tree, "build_editable", tmp_path))
    assert [Path(name).suffix for name in names] == [".pth"]


def test_the_versions_of_paddle_are_said_once(tree, tmp_path, wheel):
    [extra] = [
        text.partition(";")[0]
        for text in metadata_of(wheel).get_all("Requires-Dist")
        if text.startswith("paddlepaddle") and 'extra == "cpu"' in text
    ]
    folder = hook(tree, "prepare_metadata_for_build_editable", tmp_path, tmp_path / "site")
    assert paddles(email.message_from_bytes((folder / "METADATA").read_bytes()).get_all("Requires-Dist")) == [extra]
    assert sorted(extra.strip().removeprefix("paddlepaddle").split(",")) == ["<4", ">=3.1"]
    assert (OLDEST, END) == ((3, 1), (4, 0)) and '"paddlepaddle>=3.1,<4"' in REQUIREMENT


OUTSIDE = """
import sys
from ppreplk.cli import main
import ppreplk
assert "wheel" in ppreplk.__file__, ppreplk.__file__
sys.exit(main(sys.argv[1:]))
"""


def test_the_unpacked_wheel_lists_copies_and_reads_recipes(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "wheel")}

    def command(*arguments):
        process = subprocess.run(
            [sys.executable, "-c", OUTSIDE, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert "| digits |" in command("configs", "list")
    command("configs", "copy", "digits")
    assert "0.289M" in command("complexity", "parts", "configs/digits.yaml")


def test_the_command_is_installed(wheel):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "ppreplk = ppreplk.cli:main" in archive.read(name).decode()

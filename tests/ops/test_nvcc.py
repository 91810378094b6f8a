"""Building the device kernels with nvcc: found, named, cached, and out of the way where it is missing or fails."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, refused

from ppreplk.ops import nvcc
from ppreplk.ops.cuda_kernels import Kernels, kernels_for

OLD = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_87 sm_89 sm_90"
NEW = "sm_75 sm_80 sm_86 sm_87 sm_88 sm_89 sm_90 sm_100 sm_120"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def program(tmp_path, monkeypatch, cache):
    """A stand-in that knows some architectures, writes whatever it is asked to write, and notes how it was called."""
    script = tmp_path / "nvcc"
    write_program(script, NEW)
    monkeypatch.setenv("NVCC", str(script))
    nvcc._known.cache_clear()
    nvcc._version.cache_clear()
    yield script
    nvcc._known.cache_clear()
    nvcc._version.cache_clear()


def write_program(script: Path, known: str, version: str = "13.0", fails: str = "") -> None:
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo {version}; exit;; --list-gpu-code) echo {known}; exit;; esac\n'
        f'{fails}\necho "$@" >> {script}.calls\nfor last; do :; done\necho library > "$last"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def calls(script: Path) -> list[str]:
    return Path(f"{script}.calls").read_text().splitlines()


def test_the_command_names_architectures_and_sources(tmp_path):
    command = nvcc.compile_command(["nvcc", "-ccbin", "g++-12"], [90, 75], tmp_path / "x.so")
    assert command[:3] == ["nvcc", "-ccbin", "g++-12"] and command[-2:] == ["-o", str(tmp_path / "x.so")]
    codes = [value for option, value in zip(command, command[1:]) if option == "-gencode"]
    assert codes == ["arch=compute_75,code=sm_75", "arch=compute_90,code=[sm_90,compute_90]"], "PTX for newer GPUs"
    assert {Path(part).name for part in command if part.endswith(".cu")} == {p.name for p in nvcc.SOURCES.glob("*.cu")}


def test_all_architectures_that_nvcc_knows_are_built_once(program):
    library = nvcc.build_cuda()
    assert nvcc.architectures_of(library) == [75, 80, 86, 89, 90]
    assert nvcc.build_cuda() == library == nvcc.find_cuda(86) == nvcc.find_cuda(120)
    assert nvcc.find_cuda(70) is None, "PTX runs on newer GPUs only"
    assert len(calls(program)) == 1
    assert sorted(path.name for path in library.parent.iterdir()) == [nvcc.LIBRARY, "lock"]


def test_an_older_nvcc_knows_volta(program):
    write_program(program, OLD)
    assert nvcc.architectures_of(nvcc.build_cuda()) == list(nvcc.ARCHITECTURES)


def test_one_gpu_is_built_for_when_the_kernels_are_needed(program):
    for capability, architecture in ((80, 80), (87, 86), (121, 90)):
        with refused("ops.not-loadable", "file too short"):  # what this stand-in wrote
            kernels_for(capability)
        found = nvcc.find_cuda(capability)
        assert nvcc.architectures_of(found) == [architecture]
    assert len(calls(program)) == 3
    everything = nvcc.build_cuda()
    assert nvcc.architectures_of(nvcc.find_cuda(80)) == [80], "the one that was compiled for it"
    assert nvcc.find_cuda(75) == everything
    with refused("ops.compiler-failed", "sm_70", "$NVCC"):
        kernels_for(70)


def test_the_key_is_of_nvcc_and_stays_without_one(program, monkeypatch):
    library = nvcc.build_cuda()
    write_program(program, NEW, version="14.0")
    nvcc._version.cache_clear()
    assert nvcc.find_cuda(80) is None, "another nvcc"
    monkeypatch.setattr(nvcc, "find_nvcc", lambda: None)
    assert nvcc.find_cuda(80) == library, "no nvcc any more: what was built is used"
    monkeypatch.setattr(nvcc, "COMPILE", [*nvcc.COMPILE, "-g"])
    assert nvcc.find_cuda(80) is None, "other flags"


def test_a_failing_nvcc_is_quoted_and_leaves_nothing(program):
    write_program(program, NEW, fails="echo 'direct.cu(3): error: no such thing' >&2; exit 2")
    with refused("ops.compiler-failed", f"{program} failed: direct.cu(3): error: no such thing"):
        nvcc.build_cuda()
    assert nvcc.find_cuda(80) is None


def test_an_nvcc_that_knows_nothing_of_use(program):
    write_program(program, "sm_100 sm_120")
    with refused("ops.compiler-failed", str(program), "sm_70, sm_75", "let $NVCC name another"):
        nvcc.build_cuda()


def test_an_nvcc_that_cannot_be_run(program):
    program.write_text("not a program")
    with refused("ops.compiler-failed", f"{program} cannot be run (Exec format error); let $NVCC name another"):
        nvcc.build_cuda()
    assert nvcc.find_cuda(80) is None


@pytest.mark.parametrize("name", ["no-such-nvcc", "'nvcc", " "])
def test_no_nvcc_of_that_name(monkeypatch, cache, name):
    monkeypatch.setenv("NVCC", name)
    with refused("ops.no-nvcc", f"$NVCC is {name!r}"):
        nvcc.build_cuda()


def test_where_nvcc_is_looked_for(monkeypatch, tmp_path):
    for name in ("NVCC", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    places = [tmp_path / place / "nvcc" for place in ("path", "home/bin", "usual")]
    monkeypatch.setattr(nvcc, "PLACES", (str(places[2]),))
    with refused("ops.no-nvcc", "on the path, in $CUDA_HOME; $NVCC names another"):
        nvcc.needed_nvcc()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    for place in reversed(places):  # the later ones are found first
        place.parent.mkdir(parents=True)
        write_program(place, NEW)
        assert nvcc.find_nvcc() == [str(place)]
    write_program(tmp_path / "other", NEW)
    monkeypatch.setenv("NVCC", f"{tmp_path / 'other'} -ccbin g++")
    assert nvcc.needed_nvcc() == [str(tmp_path / "other"), "-ccbin", "g++"]


WITHOUT_PADDLE = """
import runpy
import sys

sys.modules["paddle"] = None
sys.argv[0] = "ops"
runpy.run_module("ppreplk.ops", run_name="__main__")
"""


def build_ahead(*names: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_PADDLE, *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_building_ahead_needs_no_paddle(program, monkeypatch):
    process = build_ahead("cuda")
    library = nvcc.find_cuda(90)
    assert f"building the device kernels for sm_75, sm_80, sm_86, sm_89, sm_90 in {library.parent}" in process.stderr
    assert_one_line_and_exit_2(process, str(library), "file too short", "delete that file", code="ops.not-loadable")
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    assert_one_line_and_exit_2(build_ahead("cuda"), "$NVCC is 'no-such-nvcc'", code="ops.no-nvcc")
    assert_one_line_and_exit_2(build_ahead("depthwise"), "paddle is not installed", code="command.missing-package")


needs_nvcc = pytest.mark.skipif(nvcc.find_nvcc() is None, reason="no nvcc")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", nvcc.ARCHITECTURES)
def test_nvcc_compiles_every_kernel(architecture, cache):
    """python -m pytest -m slow tests/ops/test_nvcc.py (minutes): one architecture after the other, and they load."""
    if architecture not in nvcc.known_architectures(nvcc.needed_nvcc()):
        pytest.skip(f"this nvcc makes no code for sm_{architecture}")
    library = nvcc.build_cuda([architecture])
    assert Kernels(library).path == library
    machine_code = library.read_bytes().count(f"-arch sm_{architecture} ".encode())  # as its assembler notes in it
    assert machine_code >= len(list(nvcc.SOURCES.glob("*.cu")))

"""Building and loading the operators in C++: it works, or it stays out of the way and says why."""

import ast
import os
import re
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest
from helpers import ROOT, assert_one_line_and_exit_2, refused, require_depthwise_operators, run_tool

from ppreplk.ops import build, loading
from ppreplk.ops import compiler as compiler_module
from ppreplk.ops import onednn_headers as headers
from ppreplk.ops.depthwise import choose


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A stand-in that writes whatever it is asked to write, and counts how often it linked."""
    script = tmp_path / "compiler"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) echo 1.0; exit;; *-shared*) echo linked >> {tmp_path}/links;; esac\n'
        'for last; do :; done\nsleep 0.2\necho object > "$last"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    return script


def test_a_library_is_built_once_and_found_again(cache, compiler, tmp_path):
    assert build.find_library() is None
    library = build.build_library()
    assert library == build.find_library() and library.is_relative_to(cache)
    build.build_library()
    assert (tmp_path / "links").read_text() == "linked\n"
    assert sorted(path.name for path in library.parent.iterdir()) == [build.LIBRARY, "lock"]


def test_the_key_is_of_sources_paddle_and_compiler(cache, compiler, monkeypatch):
    library = build.build_library()
    compiler.write_text(compiler.read_text().replace("1.0", "2.0"))
    assert build.find_library() is None, "another compiler"
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert build.find_library() == library, "no compiler any more: what was built is used"
    monkeypatch.setattr("paddle.__version__", "9.9")
    assert build.find_library() is None, "another Paddle"


def test_files_of_the_same_name_and_one_compiler_for_each_core(tmp_path, monkeypatch):
    """All of a library's files are compiled and linked, no more at once than there are cores."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
        (folder / "same.cpp").touch()
    linked, running, most = [], [], []

    def run(command):
        if "-c" not in command:
            linked.extend(argument for argument in command if argument.endswith(".o"))
            Path(command[-1]).touch()
            return ""
        running.append(command)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(command)
        return ""

    monkeypatch.setattr(compiler_module, "run", run)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    compiler_module.compile_library(["c++"], folders, [], [], tmp_path / "library.so")
    assert len(set(linked)) == 3 and max(most) <= 2


def test_several_processes_build_once(cache, compiler, tmp_path):
    command = [sys.executable, "-c", "from ppreplk.ops.build import build_library; print(build_library())"]
    running = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0].strip() for process in running}
    assert outputs == {str(build.find_library())}
    assert (tmp_path / "links").read_text() == "linked\n"


def build_ahead(*names):
    return subprocess.run([sys.executable, "-m", "ppreplk.ops", *names], capture_output=True, text=True)


def test_building_ahead_ends_with_usable_operators():
    require_depthwise_operators()
    for names in ((), ("depthwise",), ("depthwise", "depthwise")):
        process = build_ahead(*names)
        assert process.returncode == 0 and process.stdout == f"{build.find_library()}\n", process.stderr


def test_building_ahead_says_what_it_does(cache, compiler):
    process = build_ahead()
    library = build.find_library()
    assert f"INFO: building the depthwise operators in {library.parent}; this takes" in process.stderr
    # what this compiler wrote was not the operators
    assert_one_line_and_exit_2(process, f"{library} cannot be loaded (file too short)", code="ops.not-loadable")
    assert process.stdout == ""
    compiler.write_text("#!/bin/sh\nexit 1\n")
    library.unlink()
    process = build_ahead()
    assert_one_line_and_exit_2(process, f"error: {compiler} failed: exit code 1", code="ops.compiler-failed")
    assert process.stdout == ""
    process = build_ahead("depthwize")
    assert_one_line_and_exit_2(process, "'depthwize'; did you mean depthwise?", code="ops.unknown-library")


def test_operators_stand_on_nothing_of_the_package():
    for path in set(Path(build.__file__).parent.glob("*.py")) - {Path(build.__file__).with_name("__main__.py")}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2 or node.module == "utils.errors", (path, node.module)
                assert node.level or not node.module.startswith("ppreplk"), (path, node.module)
            elif isinstance(node, ast.Import):
                assert not [name for name in node.names if name.name.startswith("ppreplk")], path


def test_a_build_that_is_cut_off_leaves_nothing_that_counts(cache, compiler):
    compiler.write_text(compiler.read_text().replace("echo object", "kill -9 $PPID; echo object"))
    process = build_ahead()
    assert process.returncode < 0 and build.find_library() is None
    compiler.write_text(compiler.read_text().replace("kill -9 $PPID; ", ""))
    library = build.build_library()
    assert library == build.find_library()
    assert sorted(path.name for path in library.parent.iterdir()) == [build.LIBRARY, "lock"], "and is cleared away"


@pytest.mark.parametrize("when", ["asked for its version", "compiling"])
def test_a_failing_compiler_is_quoted(cache, compiler, when):
    version = "case $1 in --version) echo 1.0; exit;; esac\n" if when == "compiling" else ""
    compiler.write_text(f"#!/bin/sh\n{version}echo 'x.cc:1: error: out of memory' >&2\nexit 1\n")
    with refused("ops.compiler-failed", f"{compiler} failed: x.cc:1: error: out of memory"):
        build.build_library()
    assert build.find_library() is None


@pytest.mark.parametrize("when", ["asked for its version", "compiling"])
def test_a_compiler_that_cannot_be_run(cache, compiler, when):
    """One for another processor, say."""
    library = build.build_library()
    other = library.parent / "other"
    library.rename(other)
    broken = "not a program"
    if when == "compiling":
        compiler.write_text(f"#!/bin/sh\ncp -p $0 $0.new; echo {broken} > $0.new; mv $0.new $0; echo 1.0\n")
    else:
        compiler.write_text(broken)
    with refused("ops.compiler-failed", f"{compiler} cannot be run (Exec format error); let $CXX name another"):
        build.build_library()
    assert build.find_library() is None
    other.rename(library)
    assert build.find_library() == library, "what was built is used"


def test_a_compiler_with_arguments(cache, compiler, monkeypatch):
    plain = build.build_library()
    monkeypatch.setenv("CXX", f"env COLOUR='dark red' {compiler}")
    assert build.find_compiler()[1:] == ["COLOUR=dark red", str(compiler)]
    assert build.find_library() is None, "other arguments, another library"
    assert build.build_library() == build.find_library() != plain


@pytest.mark.parametrize("name", ["no-such-compiler", "no-such-launcher g++", "'g++", " "])
def test_no_compiler_of_that_name(cache, monkeypatch, name):
    monkeypatch.setenv("CXX", name)
    with refused("ops.no-compiler", "no C++ compiler was found", f"$CXX is {name!r}"):
        build.build_library()


@pytest.mark.parametrize("name", ["file", "name" * 100])
def test_a_place_that_cannot_be_written(compiler, tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    with refused("ops.not-writable", "set XDG_CACHE_HOME to a writable folder"):
        build.build_library()
    assert build.find_library() is None
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert build.find_library() is None


@pytest.fixture
def homeless(monkeypatch):
    """Neither HOME nor an entry in /etc/passwd."""

    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_user_without_a_home_folder(homeless, compiler, tmp_path, monkeypatch):
    assert build.find_library() is None
    with refused("ops.no-home", "set XDG_CACHE_HOME to a writable folder"):
        build.build_library()
    loading._load_built.cache_clear()
    monkeypatch.setattr(loading, "_loaded", {})
    assert not loading.available(build.DEPTHWISE)
    assert choose(paddle.float32, 31, "cpu") == "fft", "the convolution goes on with another implementation"
    loading._load_built.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.build_library().is_relative_to(tmp_path)


def test_a_file_system_mounted_noexec(cache, compiler, monkeypatch, tmp_path):
    statvfs = os.statvfs
    flags = os.ST_NOEXEC | os.ST_NOSUID
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_flag=statvfs(path).f_flag | flags))
    with refused("ops.noexec", "mounted noexec", str(cache), "set XDG_CACHE_HOME to a folder on another one"):
        build.build_library()
    assert not (tmp_path / "links").exists(), "it is said before a minute of compiling"


@pytest.mark.parametrize("reason", ["failed to map segment from shared object", "Permission denied"])
def test_a_file_that_may_not_be_loaded_where_it_is(cache, compiler, monkeypatch, reason):
    path = build.build_library()

    def forbidden(name):
        raise OSError(f"{name}: {reason}")

    monkeypatch.setattr(loading.ctypes, "CDLL", forbidden)
    with refused("ops.not-loadable", f"in {path} cannot be loaded ({reason})", "set XDG_CACHE_HOME to"):
        loading._register(build.DEPTHWISE, path)


def test_training_goes_on_without_a_compiler(colour_project, cache, tmp_path):
    broken = tmp_path / "compiler"
    broken.write_text("not a program")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "CXX": str(broken)}
    process = run_tool("train", "-c", "config.yaml", "-o", "Global.epochs=1", cwd=colour_project, env=environment)
    assert process.returncode == 0, process.stderr
    assert f"{broken} cannot be run" in process.stderr and "run as fft" in process.stderr
    environment = {**os.environ, "CXX": "no-such-compiler"}
    arguments = ["-c", "config.yaml", "-o", "Global.epochs=1"]
    process = run_tool("train", *arguments, cwd=colour_project, env=environment)
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stderr.splitlines() if "without the C++ operator" in line]
    assert len(lines) == 1 and "no C++ compiler was found" in lines[0] and build.HOW_TO in lines[0]
    assert "run as fft" in process.stderr
    process = run_tool("train", *arguments, "-o", "Arch.depthwise_impl=cpu", cwd=colour_project, env=environment)
    assert_one_line_and_exit_2(process, "no C++ compiler was found")


def test_a_library_that_cannot_be_loaded(colour_project, cache, compiler):
    process = run_tool("train", "-c", "config.yaml", "-o", "Global.epochs=1", cwd=colour_project)
    assert process.returncode == 0, process.stderr
    (path,) = cache.rglob(build.LIBRARY)
    assert f"{path} cannot be loaded (file too short); delete that file" in process.stderr
    assert "run as fft" in process.stderr


@pytest.fixture
def opened(cache, compiler, monkeypatch):
    """Files that were loaded, where nothing is at first; those that say so are broken."""
    files = []

    def load(path):
        if "broken" in Path(path).read_text():
            raise OSError(f"{path}: invalid ELF header")
        files.append(Path(path))
        return Path(path)

    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(loading.ctypes, "CDLL", load)
    monkeypatch.setattr(loading.core, "load_op_meta_info_and_register_op", lambda path: None)
    loading._load_built.cache_clear()
    yield files
    loading._load_built.cache_clear()


def test_a_library_is_loaded_again_after_it_was_deleted(opened):
    path = build.build_library()
    path.write_text("broken")
    for _ in range(2):
        with refused("ops.not-loadable", f"in {path} cannot be loaded (invalid ELF header); delete that file"):
            loading.load_ops()
        assert not loading.available(build.DEPTHWISE)
    path.unlink()
    loading.load_ops()
    assert loading.available(build.DEPTHWISE) and opened == [path]


def test_what_is_loaded_stays(opened, monkeypatch, tmp_path):
    with refused("ops.not-loaded", 'the depthwise operators are not loaded; call ppreplk.load_ops("depthwise") first'):
        loading.handle(build.DEPTHWISE)
    with refused("ops.not-loaded", 'load_ops("channels_last")'):
        loading.handle(build.CHANNELS_LAST)
    loading.load_ops()
    (path,) = opened
    monkeypatch.setenv("CXX", "another")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    loading._load_built.cache_clear()
    assert loading.available(build.DEPTHWISE) and loading.handle(build.DEPTHWISE) == path
    loading.load_ops()
    assert opened == [path]


def test_operators_are_loaded_by_name(opened, monkeypatch, caplog):
    """Those with headers that may be missing come first."""
    monkeypatch.setattr(headers, "provide", lambda folder: None)
    monkeypatch.setattr(loading, "_onednn_mismatch", lambda: None)
    loading._announce_rename.cache_clear()
    caplog.set_level("INFO")
    both = [build.build_library(build.CHANNELS_LAST), build.build_library(build.DEPTHWISE)]
    for load, expected in (
        (loading.load_ops, both[1:]),
        (partial(loading.load_ops, "depthwise"), both[1:]),
        (partial(loading.load_ops, "channels_last"), both[:1]),
        (partial(loading.load_ops, "depthwise", "channels_last", "depthwise"), both),
        (partial(loading.load_ops, fast=True), both),
        (partial(loading.load_ops, fast=True), both),
    ):
        loading._loaded.clear()
        loading._load_built.cache_clear()
        opened.clear()
        load()
        assert opened == expected, load
    assert caplog.text.count("written load_ops('depthwise', 'channels_last') now") == 1
    with refused("ops.unknown-library", "unknown operators 'channels-last'; did you mean channels_last?"):
        loading.load_ops("depthwise", "channels-last")


def test_each_library_has_a_place_of_its_own(cache, compiler, monkeypatch):
    monkeypatch.setattr(headers, "provide", lambda folder: None)
    depthwise, channels_last = build.build_library(), build.build_library(build.CHANNELS_LAST)
    assert depthwise == build.find_library() != channels_last == build.find_library(build.CHANNELS_LAST)


def test_a_paddle_without_onednn(cache, compiler, monkeypatch):
    monkeypatch.setattr(build, "ONEDNN", "libabsent.so")
    with refused("ops.no-onednn", "the channels-last operators need oneDNN", "without it (libabsent.so)"):
        build.build_library(build.CHANNELS_LAST)


def test_another_onednn_than_is_needed(opened, monkeypatch):
    monkeypatch.setattr(headers, "provide", lambda folder: None)
    monkeypatch.setattr(loading, "_onednn_mismatch", lambda: "Paddle's oneDNN is 2.7, needed is 3.6 or a later 3.x")
    with refused("ops.no-onednn", "operators cannot run: Paddle's oneDNN is 2.7", "; use another Paddle"):
        loading.load_ops("channels_last")


def test_installing_compiles_nothing():
    """Unless a wheel with compiled code is asked for (test_package.py)."""
    text = (ROOT / "setup.py").read_text()
    assert "ext_modules=" not in text and 'os.environ.get("PPREPLK_PREBUILT", NOTHING)' in text


def test_an_installation_brings_every_source():
    patterns = re.search(r'"ppreplk.ops" = \[(.*?)\]', (ROOT / "pyproject.toml").read_text())[1]
    folder = ROOT / "ppreplk" / "ops"
    installed = {
        path for pattern in re.findall(r'"(.*?)"', patterns) for path in folder.glob(pattern) if path.is_file()
    }
    assert installed == {path for path in folder.rglob("*") if path.suffix in (".cc", ".cpp", ".h", ".inl", ".cu")}

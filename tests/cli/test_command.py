"""The ``ppreplk`` command and how commands end, whatever happens in them."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, run_python

from ppreplk import __version__, cli
from ppreplk.analysis.rows import TABLES
from ppreplk.checkpoints.kept_weights import CHOICES
from ppreplk.cli import study_commands
from ppreplk.deploy.lowering import PRECISIONS
from ppreplk.utils.command import Parser, positive, run_command
from ppreplk.utils.errors import UserError


def end_of(command, *arguments: str) -> int:
    """The exit code of a command that takes no arguments."""
    return run_command(command, Parser(prog="test"), arguments)


def raising(error: BaseException):
    def command(arguments: argparse.Namespace) -> None:
        raise error

    return command


def run_with_modules(folder, modules: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    """Run ``ppreplk ARGUMENTS`` where these modules stand before the installed ones."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    code = "import sys; from ppreplk.cli import main; sys.exit(main())"
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_command_that_works_ends_with_0(capsys):
    assert end_of(lambda arguments: print("done")) == 0
    assert capsys.readouterr().out == "done\n"


def test_bad_input_is_one_line_with_its_code(capsys):
    assert end_of(raising(UserError("no such\n  file", code="test.missing", where="a.yaml"))) == 2
    assert capsys.readouterr().err == "error: a.yaml: no such file [test.missing]\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        end_of(lambda arguments: 1 / 0)
    with pytest.raises(ImportError):
        end_of(raising(ImportError("cannot import name 'x' from 'ppreplk.cli'", name="ppreplk.cli")))


def test_stopped_by_the_user(capsys):
    assert end_of(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    "text", ["raise KeyboardInterrupt", "raise ImportError('initialization failed') from KeyboardInterrupt()"]
)
def test_stopped_while_packages_are_imported(tmp_path, text):
    process = run_with_modules(tmp_path, {"paddle": text}, "complexity", "variants")
    assert (process.returncode, process.stderr) == (130, "stopped\n")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("raise AttributeError('module has no attribute int')", "AttributeError: module has no attribute int"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
    ],
)
def test_a_package_that_is_broken_is_named(tmp_path, text, reason):
    process = run_with_modules(tmp_path, {"paddle": text}, "complexity", "variants")
    parts = ["paddle is installed but cannot be imported", reason, str(tmp_path / "paddle.py"), "line 1"]
    assert_one_line_and_exit_2(process, *parts, code="command.broken-package")


def test_a_package_that_is_missing_is_named(capsys):
    assert end_of(raising(ModuleNotFoundError("No module named 'torch'", name="torch"))) == 2
    assert capsys.readouterr().err.startswith("error: torch is not installed")


WITHOUT_PADDLE = """
import sys

sys.modules["paddle"] = None
from ppreplk.cli import main

sys.exit(main(sys.argv[1:]))
"""


def run_without_paddle(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_PADDLE, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_without_paddle_a_command_says_what_to_install():
    """Its package has another name: ``pip install paddle`` would bring something else."""
    process = run_without_paddle("train", "-c", "configs/digits.yaml")
    parts = ["paddle is not installed", 'pip install "paddlepaddle>=', "GPU"]
    assert_one_line_and_exit_2(process, *parts, code="command.missing-package")


def test_without_paddle_a_name_says_what_to_install():
    code = "import sys; sys.modules['paddle'] = None; import ppreplk; ppreplk.Predictor"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    last = process.stderr.splitlines()[-1]
    assert last.startswith('ModuleNotFoundError: Paddle is not installed; pip install "paddlepaddle>=')


def test_recipes_are_listed_without_paddle():
    process = run_without_paddle("configs", "list")
    assert process.returncode == 0 and "| digits |" in process.stdout


def test_published_weights_are_listed_without_paddle():
    process = run_without_paddle("weights", "list")
    assert process.returncode == 0 and "| replknet31b-imagenet1k-224-official |" in process.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_behind_the_output():
    command = [sys.executable, "-m", "ppreplk", "configs", "list"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert process.returncode == 2
    assert process.stderr == "error: cannot write (No space left on device) [command.no-space]\n"


def test_output_and_messages_that_are_closed():
    code = (
        "from ppreplk.utils.log import progress_of_bytes\n"
        "from ppreplk.utils.command import Parser, run_command\n"
        "def command(arguments):\n"
        "    with progress_of_bytes(0, 10, 'x') as bar:\n"
        "        bar.update(10)\n"
        "    print('done')\n"
        "raise SystemExit(run_command(command, Parser(), []))\n"
    )
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        process = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], timeout=120)
        assert process.returncode == 0, closed


def test_a_reader_that_has_enough():
    code = "import sys; from ppreplk.cli import main; sys.exit(main(['complexity', 'parts', 'RepLKNet13T']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert "BrokenPipe" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 0


@pytest.mark.parametrize("text, value", [("1", 1), ("12", 12)])
def test_positive(text, value):
    assert positive(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "few", ""])
def test_not_positive(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1 on"):
        positive(text)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["trian"], ["'trian'", "did you mean train?"]),
        (["Eval"], ["'Eval'", "did you mean eval?"]),
        ([], ["COMMAND"]),
        (["study", "rum"], ["'rum'", "did you mean run?"]),
    ],
)
def test_a_mistyped_subcommand_names_the_nearest(capsys, arguments, parts):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.count("\n") == 1
    assert message.startswith("error: ") and message.endswith(" [command.arguments]\n")
    for part in parts:
        assert part in message


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"ppreplk {__version__}\n"


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "ppreplk", "--version"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.stdout == f"ppreplk {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_tool_and_help_of_its_own(name, capsys):
    for prog in (None, f"python tools/{name}.py"):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"], prog)
        assert capsys.readouterr().out.startswith(f"usage: {prog or 'ppreplk ' + name} ")
    text = (ROOT / "tools" / f"{name}.py").read_text()
    assert f'main(["{name}", *sys.argv[1:]], prog="python tools/{name}.py")' in text


def test_every_tool_has_a_command():
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} == set(cli.COMMANDS)


def test_arguments_know_what_the_rooms_know():
    """They are written twice, because reading arguments imports nothing."""
    assert cli.PRECISIONS == PRECISIONS and study_commands.TABLES == TABLES
    assert cli.WEIGHTS == CHOICES


HELP = """
import sys
from ppreplk.cli import command_parser

for arguments in ([], ["infer"], ["benchmark", "conv"], ["study", "run"]):
    try:
        command_parser().parse_args([*arguments, "--help"])
    except SystemExit:
        pass
print(sorted({name.partition(".")[0] for name in sys.modules} & {"paddle", "numpy", "yaml", "PIL", "tqdm"}))
"""


def test_help_imports_nothing_heavy():
    assert run_python(HELP).splitlines()[-1] == "[]"


PREDICTING = """
import sys
from ppreplk.cli import main

print(main(["infer", "-c", "config.yaml", "--model-dir", sys.argv[1]]), "ppreplk.models" in sys.modules)
"""


def test_a_program_is_run_without_network_code(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    printed = run_python(PREDICTING, ROOT / "tests" / "earlier" / "program").splitlines()
    assert len(printed) == 25 and printed[-1] == "0 False"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_training_that_is_told_to_end_says_so(colour_project, name):
    number = getattr(signal, name)
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", "config.yaml", "-o", "Global.epochs=10000"]
    with subprocess.Popen(command, cwd=colour_project, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "saved output/latest" in line:
                process.send_signal(number)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 128 + number
    assert rest.splitlines()[-1] == f"ended by {name}"
    assert "go on with -o Global.checkpoints=output/latest" in rest and "Traceback" not in rest

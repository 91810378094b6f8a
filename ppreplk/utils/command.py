"""What every command line of the project shares: arguments, and how a command ends.

Nothing heavy is imported before the arguments are read, so that ``--help`` and mistyped arguments answer at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .errors import UserError, nearest
from .paddle_version import REQUIREMENT, check_paddle
from .paths import user_path

BAD_INPUT = 2
INTERRUPTED = 130  # what a shell reports for Ctrl-C
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PACKAGE = __name__.partition(".")[0]
# what brings a module whose name differs from its package's
BRINGS = {
    "paddle": REQUIREMENT,
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that ends as every command does on bad input: one line, exit code 2.

    An unknown choice, a mistyped subcommand for example, is answered with the nearest known one.
    """

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; --help lists the arguments [command.arguments]\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"{str(value)!r} is not known{nearest(str(value), known)}")


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Give a parser ``-c`` and ``-o``: the configuration file, and values that replace some of its own."""
    parser.add_argument("-c", "--config", type=path, required=required, help="YAML file in PaddleClas's schema")
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="replace one value of the configuration; repeat -o for each further one",
    )


def positive(text: str) -> int:
    """The type of an argument that counts something: a whole number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return value


def path(text: str) -> str:
    """The type of an argument that names a file or a folder, see :func:`~ppreplk.utils.paths.user_path`."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come. What Ctrl-C would stop in order, it stops in order too."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = signal.Signals(number)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(number)


def run_command(
    command: Callable[[argparse.Namespace], object],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line and run ``command`` with the arguments; errors of the user's become one line.

    Args:
        command: what to do. What it returns is ignored.
        parser: of its arguments.
        argv: the arguments; those of this process unless given.

    Returns:
        The exit code: 0, 2 after bad input (``error: MESSAGE [CODE]`` on standard error), 1 where only a part of the
        input is bad and the rest is done, 130 after Ctrl-C, 128 and the signal's number after SIGTERM or SIGHUP.
        Arguments that do not parse end the process, with exit code 2.

    Any other exception is a defect of the program and keeps its traceback, unless it comes from importing another
    package, see :func:`broken_import`.
    """
    try:
        arguments = parser.parse_args(argv)
        _prepare_process(getattr(arguments, "needs_paddle", True))
        command(arguments)
        print(end="", flush=True)  # nothing where the output is closed
    except UserError as error:
        return _refuse(error)
    except Terminated as error:
        print(f"ended by {error.signal.name}", file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough
        _drop_output()
    except Exception as error:
        if _interrupted(error):
            print("stopped", file=sys.stderr)
            return INTERRUPTED
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            _drop_output()
            return _refuse(UserError(f"cannot write ({error.strerror})", code="command.no-space"))
        broken = broken_import(error)
        if broken is None:
            raise
        return _refuse(broken)
    return 0


def _prepare_process(needs_paddle: bool) -> None:
    """Let a signal end the process as usual, send log messages to the terminal, and import Paddle quietly if needed.

    Names that the terminal's encoding does not have are printed with backslashes.
    """
    from .log import log_to_terminal

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if needs_paddle:
        warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
        import paddle

        check_paddle(paddle.__version__)
        paddle.disable_signal_handler()  # it would print a stack of C++ frames
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _terminate)
    log_to_terminal()


def _drop_output() -> None:
    """Send what is not yet printed nowhere, or it fails once more when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: UserError) -> int:
    print(f"error: {' '.join(str(error).split())} [{error.code}]", file=sys.stderr)
    return error.exit_code


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: C extensions turn one that comes while they are imported into ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def broken_import(error: Exception) -> UserError | None:
    """``error`` as one line, if importing a package other than ours has raised it; None otherwise.

    The package is missing, or it is installed and does not work: built for another version of a library, half
    removed, or shadowed by a file of the current folder.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    ours = [position for position, (frame, _) in enumerate(frames) if _package(frame.f_globals) == PACKAGE]
    for frame, line in frames[ours[-1] + 1 if ours else 0 :]:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            name, file = _package(frame.f_globals), frame.f_code.co_filename
            reason = traceback.format_exception_only(type(error), error)[-1].strip()
            return UserError(
                f"{name} is installed but cannot be imported: {reason} ({file}, line {line}); reinstall {name}, or "
                "remove it if nothing here needs it",
                code="command.broken-package",
            )
    name = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if name in ("", PACKAGE):
        return None
    if isinstance(error, ModuleNotFoundError):
        return UserError(
            f"{name} is not installed, and this command needs it; pip install {BRINGS.get(name, name)}",
            code="command.missing-package",
        )
    return UserError(
        f"{name} is installed but does not fit: {error}; install another version of {name}",
        code="command.broken-package",
    )


def _package(module_globals: dict[str, Any]) -> str:
    return str(module_globals.get("__name__", "")).partition(".")[0]


def output_parser() -> Parser:
    """The argument of every subcommand that prints a table."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--output",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="also write the table to this .md or .csv file",
    )
    return parser


def print_table(arguments: argparse.Namespace) -> None:
    """Print the table that ``arguments.table`` makes, and write it to the files of ``--output``."""
    from .tables import check_destination, write_table

    destinations = [check_destination(path) for path in arguments.output]
    table = arguments.table(arguments)
    print(table.markdown())
    for destination in destinations:
        write_table(table, destination)

"""What the command-line tools share: arguments, logging, and how errors end."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

import paddle

from .config import Config, load_config
from .utils.errors import UserError
from .utils.log import log_to_terminal

BAD_INPUT = 2
INTERRUPTED = 130
EPILOG = (
    "Keys of the configuration are listed in docs/config.md; README.md has examples. Paths are relative to the current "
    "folder."
)


class Parser(argparse.ArgumentParser):
    """Its errors end as all others do: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}; --help lists the arguments\n")


def config_parser(description: str) -> Parser:
    """A parser with ``-c`` and ``-o``."""
    parser = Parser(description=description, epilog=EPILOG)
    add_config_arguments(parser)
    return parser


def add_config_arguments(parser: Parser) -> None:
    """Give a parser ``-c`` and ``-o``."""
    parser.add_argument("-c", "--config", required=True, help="YAML file in PaddleClas's schema")
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="replace one value of the configuration; repeat -o for each further one",
    )


def positive(text: str) -> int:
    """Type of an argument that counts something."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return value


def run(command: Callable[[Config, argparse.Namespace], object], parser: Parser) -> int:
    """Parse, load the configuration, run ``command``; see :func:`run_without_config`."""
    return run_without_config(
        lambda arguments: command(load_config(arguments.config, arguments.override), arguments), parser
    )


def run_without_config(command: Callable[[argparse.Namespace], object], parser: Parser) -> int:
    """Parse, run ``command``; one line and exit code 2 for bad input."""
    arguments = parser.parse_args()
    log_to_terminal()
    paddle.disable_signal_handler()  # it prints a stack of C++ frames when the process is told to end
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    try:
        command(arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())} [{error.code}]", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0

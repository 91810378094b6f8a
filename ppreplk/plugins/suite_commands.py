"""Arguments that the launchers of both suites take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Optional

from ..utils.command import Parser, path, positive


def launcher_parser(prog: str, suite: str, variable: str, commands: Sequence[str]) -> Parser:
    """Of a command's name; what is behind it is read by the command.

    Args:
        prog: how the launcher is called.
        suite: its name.
        variable: environment variable that names a checkout of it.
        commands: that there are.
    """
    parser = Parser(
        prog=prog,
        description=f"{suite}'s tools with our networks registered: those of a source checkout (the current folder, "
        f"--checkout DIR or {variable}), or the wheel.",
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; --help behind its name lists them")
    return parser


def without_checkout(arguments: Sequence[str]) -> tuple[list[str], Optional[str]]:
    """The arguments for the suite, and the value of ``--checkout``.

    >>> without_checkout(["--config", "a.yml", "--checkout=there"])
    (['--config', 'a.yml'], 'there')
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkout", type=path)
    found, rest = parser.parse_known_args(arguments)
    return rest, found.checkout


def run_parser(prog: str, pictures: str) -> Parser:
    """Of a command that runs an exported program; ``pictures`` says what it draws."""
    parser = Parser(prog=prog, description=f"Run an exported program on images, and write pictures with {pictures}.")
    parser.add_argument("--model-dir", type=path, required=True, help="folder that export wrote")
    parser.add_argument("--images", type=path, required=True, help="an image, a folder, or a .txt list")
    parser.add_argument("--output", type=path, required=True, help="folder of the pictures")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--threads", type=positive, help="math threads on a CPU")
    return parser


def digits_parser(prog: str, data_set: str) -> Parser:
    """Of a command that writes scenes of digits; ``data_set`` says for what."""
    text = f"Write a small {data_set}: handwritten digits, which ship with scikit-learn, on noise."
    parser = Parser(prog=prog, description=text)
    parser.add_argument("folder", type=path)
    parser.add_argument("--train", type=positive, default=400, help="training images")
    parser.add_argument("--val", type=positive, default=100, help="held-out images")
    parser.add_argument("--seed", type=int, default=0)
    return parser

"""The subcommand ``ppreplk gpu_check``. It runs where Paddle is not."""

from __future__ import annotations

import argparse

from ..utils.command import Parser, path, positive

SECONDS = 280


def gpu_check(parser: Parser) -> None:
    text = f"to spend in all; what is not measured by then is named; default: {SECONDS}"
    parser.add_argument("--seconds", type=positive, default=SECONDS, help=text)
    parser.add_argument("--output", type=path, metavar="FILE", help="also write what is printed to this .md file")

    def run(arguments: argparse.Namespace) -> None:
        from ..gpu.gpu_check import gpu_check
        from ..utils.atomic import check_output

        output = arguments.output and check_output(arguments.output, "report", [".md"])
        gpu_check(arguments.seconds, output)

    parser.set_defaults(run=run, needs_paddle=False)

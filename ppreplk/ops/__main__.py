"""Build the compiled operators ahead of their first use: python -m ppreplk.ops [--fast]"""

import argparse
import sys

from ..utils.command import Parser, run_command
from .build import DENSE, DEPTHWISE, build_library


def main(arguments: argparse.Namespace) -> None:
    for library in (DENSE, DEPTHWISE) if arguments.fast else (DEPTHWISE,):
        print(build_library(library))


if __name__ == "__main__":
    parser = Parser(prog="python -m ppreplk.ops", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="also those of programs with Global.export_runtime=fast")
    sys.exit(run_command(main, parser))

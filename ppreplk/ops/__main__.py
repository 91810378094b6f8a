"""Build the operators in C++ ahead of their first use, and load them once to see that they work."""

import argparse
import sys

from ..utils.command import Parser, run_command
from .build import build_library, find_prebuilt
from .loading import DEFAULT, libraries, load


def main(arguments: argparse.Namespace) -> None:
    names = ["depthwise", "channels_last"] if arguments.fast else arguments.names
    for library in libraries(*names):
        path = find_prebuilt(library) or build_library(library)
        load(library)
        print(path)


if __name__ == "__main__":
    parser = Parser(prog="python -m ppreplk.ops", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"depthwise, channels_last; without names: {DEFAULT}")
    parser.add_argument("--fast", action="store_true", help="the old way to say: depthwise channels_last")
    sys.exit(run_command(main, parser))

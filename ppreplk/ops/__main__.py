"""Build the operators ahead of their first use, and load them once to see that they work. ``cuda`` needs no Paddle."""

import argparse
import sys

from ..utils.command import Parser, run_command
from . import nvcc

CUDA = "cuda"


def main(arguments: argparse.Namespace) -> None:
    names = ["depthwise", "channels_last"] if arguments.fast else arguments.names
    if CUDA in names:
        build_kernels()
    if set(names) == {CUDA}:
        return
    from .build import build_library, find_prebuilt
    from .loading import libraries, load

    for library in libraries(*(name for name in names if name != CUDA)):
        path = find_prebuilt(library) or build_library(library)
        load(library)
        print(path)


def build_kernels() -> None:
    """Build the device kernels for every GPU that nvcc knows, and print the file and the architectures."""
    from .cuda_kernels import STATE, Kernels

    path = nvcc.build_cuda()
    Kernels(path)
    print(f"{path}: {nvcc.names(nvcc.architectures_of(path))}; {STATE}")


if __name__ == "__main__":
    parser = Parser(prog="python -m ppreplk.ops", description=__doc__)
    parser.add_argument("names", nargs="*", help="depthwise, channels_last, cuda; without names: depthwise")
    parser.add_argument("--fast", action="store_true", help="the old way to say: depthwise channels_last")
    parser.set_defaults(needs_paddle=set(sys.argv[1:]) != {CUDA})
    sys.exit(run_command(main, parser))

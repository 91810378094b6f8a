"""Build the compiled operators ahead of their first use: python -m ppreplk.ops [--fast]"""

import argparse
import logging
import sys

import paddle

from ..errors import UserError
from .build import DENSE, DEPTHWISE, build_library


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="also those of programs with Global.export_runtime=fast")
    arguments = parser.parse_args()
    paddle.disable_signal_handler()  # it prints a stack of C++ frames when the process is told to end
    log_format = "[%(asctime)s] %(levelname)s: %(message)s"
    logging.basicConfig(format=log_format, datefmt="%Y/%m/%d %H:%M:%S", force=True)  # libraries have been here before
    logging.getLogger("ppreplk").setLevel(logging.INFO)
    try:
        for library in (DENSE, DEPTHWISE) if arguments.fast else (DEPTHWISE,):
            print(build_library(library))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

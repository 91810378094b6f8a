"""Serve an exported program: python tools/serve.py --model-dir inference/digits"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]], prog="python tools/serve.py"))

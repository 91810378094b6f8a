"""Effective receptive field: python tools/erf.py --model RepLKNet31B=WEIGHTS --images FOLDER"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["erf", *sys.argv[1:]], prog="python tools/erf.py"))

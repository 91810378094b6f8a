"""Pictures of a network and of its kernels: python tools/draw.py network RepLKNet31B"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["draw", *sys.argv[1:]], prog="python tools/draw.py"))

"""Convert published weights: python tools/convert.py RepLKNet-31B_ImageNet-1K_224.pth replknet31b_224.pdparams"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]], prog="python tools/convert.py"))

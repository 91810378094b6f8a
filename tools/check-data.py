"""Check a training's data before its first step: python tools/check-data.py -c configs/digits.yaml"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-data", *sys.argv[1:]], prog="python tools/check-data.py"))

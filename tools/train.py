"""Train a network: python tools/train.py -c configs/digits.yaml"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="python tools/train.py"))

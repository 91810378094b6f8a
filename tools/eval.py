"""Evaluate weights: python tools/eval.py -c CONFIG -o Global.pretrained_model=output/best_model"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]], prog="python tools/eval.py"))

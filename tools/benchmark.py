"""Measure: python tools/benchmark.py conv, model, train, or data -c configs/replknet31b.yaml"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]], prog="python tools/benchmark.py"))

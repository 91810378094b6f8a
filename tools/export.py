"""Export an inference program: python tools/export.py -c CONFIG -o Global.pretrained_model=output/best_model"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]], prog="python tools/export.py"))

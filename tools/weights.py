"""Published weights by name: python tools/weights.py get replknet31b-imagenet1k-224"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["weights", *sys.argv[1:]], prog="python tools/weights.py"))

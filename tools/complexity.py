"""Parameters and multiply-adds: python tools/complexity.py parts RepLKNet31B --size 224"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["complexity", *sys.argv[1:]], prog="python tools/complexity.py"))

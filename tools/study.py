"""The paper's tables at small scale: python tools/study.py run -c configs/digits.yaml"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]], prog="python tools/study.py"))

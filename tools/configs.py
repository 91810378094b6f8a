"""The recipes that come with the package: python tools/configs.py list"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["configs", *sys.argv[1:]], prog="python tools/configs.py"))

"""``python -m ppreplk`` is the ``ppreplk`` command, for where scripts are not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

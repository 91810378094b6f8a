"""Build the compiled operators ahead of their first use: python -m ppreplk.ops"""

import argparse
import sys

from ..cli import run_without_config
from .build import build_library

if __name__ == "__main__":
    sys.exit(run_without_config(lambda _: print(build_library()), argparse.ArgumentParser(description=__doc__)))

"""Export an inference program: python tools/export.py -c CONFIG -o Global.pretrained_model=output/best_model"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.export import export

if __name__ == "__main__":
    sys.exit(run(lambda config, _: export(config), config_parser("Merge, fold, save and verify a program.")))

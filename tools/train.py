"""Train a network: python tools/train.py -c configs/digits.yaml"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.training import train

if __name__ == "__main__":
    sys.exit(run(lambda config, _: train(config), config_parser("Train a network.")))

"""Evaluate weights: python tools/eval.py -c CONFIG -o Global.pretrained_model=output/best_model"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.training import evaluate_config

if __name__ == "__main__":
    sys.exit(run(lambda config, _: evaluate_config(config), config_parser("Evaluate trained weights.")))

"""Export an inference program: python tools/export.py -c CONFIG -o Global.pretrained_model=output/best_model"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.deploy.export import export
from ppreplk.deploy.programs import FP32, PRECISIONS

if __name__ == "__main__":
    parser = config_parser("Merge, fold, save and verify a program.")
    text = "of the program; bf16, with Global.export_runtime=channels_last, adds one in bfloat16"
    parser.add_argument("--precision", choices=PRECISIONS, default=FP32, help=text)
    sys.exit(run(lambda config, arguments: export(config, arguments.precision), parser))

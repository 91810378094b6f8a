"""Predict images: python tools/infer.py -c CONFIG --model-dir inference -o Infer.infer_imgs=FOLDER"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.predict import infer

if __name__ == "__main__":
    parser = config_parser("Predict images with trained weights or with an exported program.")
    parser.add_argument("--model-dir", help="folder with an exported program; otherwise Global.pretrained_model")
    parser.add_argument("--output", help="write predictions to this .json or .csv file instead of printing them")
    sys.exit(run(infer, parser))

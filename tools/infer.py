"""Predict images: python tools/infer.py -c CONFIG --model-dir inference -o Infer.infer_imgs=FOLDER"""

import sys

from ppreplk.cli import config_parser, run
from ppreplk.deploy.predict import infer, write_predictions
from ppreplk.deploy.programs import PRECISIONS


def main(config, arguments):
    predictions = infer(config, arguments.model_dir, arguments.precision)
    if arguments.output:
        write_predictions(predictions, arguments.output)
    else:
        for prediction in predictions:
            print(prediction)


if __name__ == "__main__":
    parser = config_parser("Predict images with trained weights or with an exported program.")
    parser.add_argument("--model-dir", help="folder with an exported program; otherwise Global.pretrained_model")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the program; default: what it was exported for")
    parser.add_argument("--output", help="write predictions to this .json or .csv file instead of printing them")
    sys.exit(run(main, parser))

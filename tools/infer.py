"""Predict images: python tools/infer.py -c CONFIG --model-dir inference -o Infer.infer_imgs=FOLDER"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]], prog="python tools/infer.py"))

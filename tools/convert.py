"""Convert published weights: python tools/convert.py RepLKNet-31B_ImageNet-1K_224.pth replknet31b_224.pdparams"""

import sys

from ppreplk.checkpoints import convert
from ppreplk.cli import Parser, positive, run_without_config
from ppreplk.deploy.from_weights import predict_with_weights


def main(arguments):
    print(convert(arguments.source, arguments.target, arguments.ema))
    if arguments.check:
        print(predict_with_weights(arguments.target, arguments.check, arguments.size, arguments.source))


if __name__ == "__main__":
    parser = Parser(
        description="Convert a checkpoint of any layout to weights under this package's names.",
        epilog="docs/weights.md lists the published files. PyTorch is not needed; nothing in the file is executed.",
    )
    parser.add_argument("source", help=".pth, .safetensors, .pdparams or .pkl file")
    parser.add_argument("target", help=".pdparams or .safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a PyTorch training")
    parser.add_argument("--check", metavar="IMAGE", help="run the converted network on an image, print its top-5")
    parser.add_argument(
        "--size", type=positive, help="side of the image for --check, in pixels (default: as published)"
    )
    sys.exit(run_without_config(main, parser))

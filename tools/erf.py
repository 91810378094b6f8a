"""Effective receptive field: python tools/erf.py --model RepLKNet31B=WEIGHTS --images FOLDER"""

import sys

from ppreplk.analysis.erf_comparison import MEAN, STD, Images, compare, read_subject
from ppreplk.cli import Parser, positive, run_without_config
from ppreplk.utils.cores import default_threads
from ppreplk.utils.device import set_threads, use_vector_units


def main(arguments):
    use_vector_units()
    set_threads(arguments.threads)
    subjects = [read_subject(text) for text in arguments.model]
    images = Images(arguments.images, arguments.size, arguments.limit, arguments.mean, arguments.std)
    print(compare(subjects, images, arguments.output, arguments.layer).markdown())


if __name__ == "__main__":
    parser = Parser(description="Which pixels the centre of a network's last feature map depends on.")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=WEIGHTS",
        help="network of ours or of paddleclas; without =WEIGHTS they are random; may be repeated",
    )
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--size", type=positive, default=1024, help="height and width they are resized to")
    parser.add_argument("--limit", type=positive, default=50, help="use so many images at most; default: 50")
    parser.add_argument("--output", default="output/erf", help="folder of the results; default: output/erf")
    parser.add_argument("--layer", help="use the output of this layer instead of the last feature map")
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN, help="of the channels; 0.5 0.5 0.5 for XL")
    parser.add_argument("--std", type=float, nargs=3, default=STD, help="of the channels; 0.5 0.5 0.5 for XL")
    parser.add_argument("--threads", type=positive, default=default_threads(), help="math threads; default: all")
    sys.exit(run_without_config(main, parser))

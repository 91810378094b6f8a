"""Measure: python tools/benchmark.py conv, model, train, or data -c configs/replknet31b.yaml"""

import sys

from ppreplk.benchmark.input import measure_data
from ppreplk.benchmark.kernel_sizes import plot_kernel_sizes
from ppreplk.benchmark.layers import SHAPES, measure_layers
from ppreplk.benchmark.networks import measure_network, measure_training
from ppreplk.cli import Parser, add_config_arguments, positive, run_without_config
from ppreplk.config.checking import load_config
from ppreplk.utils.cores import default_threads
from ppreplk.utils.errors import UserError
from ppreplk.utils.figures import check_figure
from ppreplk.utils.tables import check_destination, write_table


def conv(arguments):
    if arguments.figure and not arguments.kernel:
        raise UserError("--figure shows times against kernel sizes: give those with --kernel")
    figure = arguments.figure and check_figure(arguments.figure)
    shapes = [(arguments.channels, arguments.side, kernel) for kernel in arguments.kernel] or SHAPES
    table = measure_layers(shapes, arguments.batch or [1], arguments.threads, arguments.backward, arguments.rounds)
    if figure:
        plot_kernel_sizes(table, figure)
    return table


def model(arguments):
    sizes, batches = arguments.size or [224], arguments.batch or [1]
    threads = arguments.threads or [default_threads()]
    return measure_network(arguments.name, sizes, batches, threads, arguments.rounds, arguments.native)


def train(arguments):
    name, size, threads = arguments.name, arguments.size, arguments.threads
    return measure_training(name, size, arguments.batch, threads, arguments.rounds, arguments.native)


def data(arguments):
    config = load_config(arguments.config, arguments.override)
    return measure_data(config, arguments.rounds, arguments.images)


def main(arguments):
    destinations = [check_destination(path) for path in arguments.output]
    table = arguments.measure(arguments)
    print(table.markdown())
    for destination in destinations:
        write_table(table, destination)


def parser():
    common = Parser(add_help=False)
    common.add_argument("--rounds", type=positive, default=7, help="turns each contestant takes; medians are over them")
    common.add_argument(
        "--output", action="append", default=[], metavar="FILE", help="also write the table to this .md or .csv file"
    )
    top = Parser(description="Measure speed. Contestants take turns in one process.")
    subjects = top.add_subparsers(required=True, metavar="SUBJECT")

    threads = Parser(add_help=False)
    threads.add_argument("--threads", type=positive, default=default_threads(), help="math threads; default: all")

    subject = subjects.add_parser("conv", parents=[common, threads], help="one depthwise layer")
    subject.add_argument("--batch", type=positive, action="append", help="images at once, may be repeated; default: 1")
    subject.add_argument("--backward", action="store_true", help="the gradients instead of the output")
    subject.add_argument(
        "--kernel", type=positive, action="append", default=[], help="kernel size; default: the layers of RepLKNet-31B"
    )
    subject.add_argument("--channels", type=positive, default=128, help="with --kernel")
    subject.add_argument("--side", type=positive, default=56, help="height and width of the map, with --kernel")
    subject.add_argument("--figure", metavar="FILE", help="with --kernel: plot times to this .png or .svg file")
    subject.set_defaults(measure=conv)

    network = Parser(add_help=False)
    network.add_argument("--name", default="RepLKNet31B", help="network; default: RepLKNet31B")

    subject = subjects.add_parser("model", parents=[common, network], help="a network in inference form")
    for option, text in {
        "size": "height and width of the images; default: 224",
        "batch": "images at once; default: 1",
        "threads": "math threads; default: all",
    }.items():
        subject.add_argument(f"--{option}", type=positive, action="append", help=f"{text}; may be repeated")
    subject.add_argument(
        "--native",
        action="store_true",
        help="also what takes very long: stock Paddle in eager mode, Paddle's own bfloat16, PyTorch in NCHW",
    )
    subject.set_defaults(measure=model)

    subject = subjects.add_parser("train", parents=[common, threads, network], help="one training step of a network")
    subject.add_argument("--size", type=positive, default=224, help="height and width of the images; default: 224")
    subject.add_argument("--batch", type=positive, default=1, help="images at once; default: 1")
    subject.add_argument("--native", action="store_true", help="also stock Paddle, which takes very long")
    subject.set_defaults(measure=train)

    subject = subjects.add_parser("data", parents=[common], help="decoding and transforms, per core")
    add_config_arguments(subject)
    subject.add_argument("--images", type=positive, default=200, help="images per round")
    subject.set_defaults(measure=data)
    return top


if __name__ == "__main__":
    sys.exit(run_without_config(main, parser()))

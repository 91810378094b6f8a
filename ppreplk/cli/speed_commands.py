"""The subcommands of ``ppreplk benchmark``: each adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..utils.command import Parser, add_config_arguments, output_parser, path, positive, print_table

if TYPE_CHECKING:
    from ..utils.tables import Table


def benchmark(parser: Parser) -> None:
    common = output_parser()
    common.add_argument("--rounds", type=positive, default=7, help="turns each contestant takes; medians are over them")
    threads = Parser(add_help=False)
    threads.add_argument("--threads", type=positive, help="math threads; default: all")
    network = Parser(add_help=False)
    network.add_argument("--name", default="RepLKNet31B", help="network; default: RepLKNet31B")
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    benchmark_conv(subjects.add_parser("conv", parents=[common, threads], help="one depthwise layer"))
    benchmark_model(subjects.add_parser("model", parents=[common, network], help="a network in inference form"))
    benchmark_train(
        subjects.add_parser("train", parents=[common, threads, network], help="one training step of a network")
    )
    benchmark_data(subjects.add_parser("data", parents=[common], help="decoding and transforms, per core"))
    parser.set_defaults(run=print_table)
    benchmark_readers(
        subjects.add_parser(
            "readers",
            parents=[output_parser()],
            help="the same images through everything that reads an export: the same classes, and times",
        )
    )


def benchmark_conv(parser: Parser) -> None:
    parser.add_argument("--batch", type=positive, action="append", help="images at once, may be repeated; default: 1")
    parser.add_argument("--backward", action="store_true", help="the gradients instead of the output")
    parser.add_argument(
        "--kernel", type=positive, action="append", default=[], help="kernel size; default: the layers of RepLKNet-31B"
    )
    parser.add_argument(
        "--table1", action="store_true", help="the maps and kernel sizes of the paper's table 1, one image and layer"
    )
    parser.add_argument("--channels", type=positive, default=128, help="with --kernel")
    parser.add_argument("--side", type=positive, default=56, help="height and width of the map, with --kernel")
    parser.add_argument(
        "--figure", type=path, metavar="FILE", help="with --kernel: plot times to this .png or .svg file"
    )

    def table(arguments: argparse.Namespace) -> Table:
        from ..benchmark.kernel_sizes import plot_kernel_sizes
        from ..benchmark.layers import SHAPES, measure_layers
        from ..benchmark.table_one import measure_table_one
        from ..utils.cores import default_threads
        from ..utils.errors import UserError
        from ..utils.figures import check_figure

        if arguments.figure and not arguments.kernel:
            raise UserError(
                "--figure shows times against kernel sizes: give those with --kernel", code="command.arguments"
            )
        figure = arguments.figure and check_figure(arguments.figure)
        shapes = [(arguments.channels, arguments.side, kernel) for kernel in arguments.kernel] or SHAPES
        threads = arguments.threads or default_threads()
        if arguments.table1:
            if arguments.kernel or arguments.batch or arguments.backward:
                message = "--table1 stands alone: its shapes are the paper's"
                raise UserError(message, code="command.arguments")
            return measure_table_one(threads, arguments.rounds)
        table = measure_layers(shapes, arguments.batch or [1], threads, arguments.backward, arguments.rounds)
        if figure:
            plot_kernel_sizes(table, figure)
        return table

    parser.set_defaults(table=table)


def benchmark_model(parser: Parser) -> None:
    for option, text in {
        "size": "height and width of the images; default: 224",
        "batch": "images at once; default: 1",
        "threads": "math threads; default: all",
    }.items():
        parser.add_argument(f"--{option}", type=positive, action="append", help=f"{text}; may be repeated")
    parser.add_argument(
        "--native",
        action="store_true",
        help="also what takes very long: stock Paddle in eager mode, Paddle's own bfloat16, PyTorch in NCHW",
    )

    def table(arguments: argparse.Namespace) -> Table:
        from ..benchmark.networks import measure_network
        from ..utils.cores import default_threads

        sizes, batches = arguments.size or [224], arguments.batch or [1]
        threads = arguments.threads or [default_threads()]
        return measure_network(arguments.name, sizes, batches, threads, arguments.rounds, arguments.native)

    parser.set_defaults(table=table)


def benchmark_train(parser: Parser) -> None:
    parser.add_argument("--size", type=positive, default=224, help="height and width of the images; default: 224")
    parser.add_argument("--batch", type=positive, default=1, help="images at once; default: 1")
    parser.add_argument("--native", action="store_true", help="also stock Paddle, which takes very long")

    def table(arguments: argparse.Namespace) -> Table:
        from ..benchmark.training_steps import measure_training
        from ..utils.cores import default_threads

        name, size, threads = arguments.name, arguments.size, arguments.threads or default_threads()
        return measure_training(name, size, arguments.batch, threads, arguments.rounds, arguments.native)

    parser.set_defaults(table=table)


def benchmark_data(parser: Parser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--images", type=positive, default=200, help="images per round")

    def table(arguments: argparse.Namespace) -> Table:
        from ..benchmark.input import measure_data
        from ..config import load_config

        return measure_data(load_config(arguments.config, arguments.override), arguments.rounds, arguments.images)

    parser.set_defaults(table=table)


def benchmark_readers(parser: Parser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--images", type=positive, default=360, help="of DataLoader.Eval; default: 360")
    for name, what in {
        "paddlex": "with PaddleX",
        "paddleclas": "with PaddleClas",
        "service": 'with what "ppreplk serve" needs',
    }.items():
        parser.add_argument(
            f"--{name}-python", type=path, metavar="PYTHON", help=f"of an environment {what}; default: this one"
        )

    def run(arguments: argparse.Namespace) -> None:
        from ..benchmark.readers import Pythons, compare_readers
        from ..utils.errors import Incomplete

        given = {
            name: getattr(arguments, f"{name}_python")
            for name in ("paddlex", "paddleclas", "service")
            if getattr(arguments, f"{name}_python")
        }
        bad: list[str] = []

        def table(arguments: argparse.Namespace) -> Table:
            made, found = compare_readers(arguments.config, arguments.override, arguments.images, Pythons(**given))
            bad.extend(found)
            return made

        arguments.table = table
        print_table(arguments)
        if bad:
            raise Incomplete(
                f"readers that failed, or gave another class: {', '.join(bad)}", code="benchmark.reader-differs"
            )

    parser.set_defaults(run=run)

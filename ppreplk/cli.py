"""The ``ppreplk`` command: ``ppreplk train|eval|export|infer|convert|erf|complexity|study|benchmark``.

Each subcommand is one function here. It adds its arguments to a parser, and imports what it runs when it runs.
The scripts in ``tools/`` are the same commands under the names that PaddleClas's users know.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Optional

from .utils.command import Parser, add_config_arguments, path, positive, run_command
from .utils.version import __version__

if TYPE_CHECKING:
    from .config import Config
    from .utils.tables import Table

EPILOG = (
    "Keys of the configuration are listed in docs/config.md; README.md has examples. Paths are relative to the current "
    "folder."
)
PRECISIONS = ("fp32", "bf16")  # of exported programs, as in deploy
TABLES = (2, 3, 4, 5, 11)  # of the paper, as in analysis.rows


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: its name and its arguments; those of this process unless given.
        prog: what ``--help`` calls it; ``ppreplk NAME`` unless given.

    Returns:
        The exit code: 0, 2 after bad input, 1 where only a part of it is bad and the rest is done, 130 after Ctrl-C.
    """
    return run_command(lambda arguments: arguments.run(arguments), command_parser(prog), argv)


def command_parser(prog: str | None = None) -> Parser:
    """The parser of all subcommands; ``prog`` is as for :func:`main`."""
    parser = Parser(
        prog="ppreplk", description="RepLKNet for PaddlePaddle.", epilog="ppreplk COMMAND --help says more."
    )
    parser.add_argument("--version", action="version", version=f"ppreplk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, (add_arguments, text, epilog) in COMMANDS.items():
        command = commands.add_parser(name, prog=prog or f"ppreplk {name}", help=text, description=text, epilog=epilog)
        add_arguments(command)
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that ``-c`` and ``-o`` name."""
    from .config import load_config

    return load_config(arguments.config, arguments.override)


def use_threads(threads: int | None) -> None:
    """Compute with this number of math threads; None is ``OMP_NUM_THREADS``, or all cores."""
    from .utils.cores import default_threads
    from .utils.device import set_threads, use_vector_units

    use_vector_units()
    set_threads(threads or default_threads())


# ----------------------------------------------------------------------------------------------------------------------
# From a configuration


def train(parser: Parser) -> None:
    add_config_arguments(parser)

    def run(arguments: argparse.Namespace) -> None:
        from .training import train

        train(configuration(arguments))

    parser.set_defaults(run=run)


def evaluate(parser: Parser) -> None:
    add_config_arguments(parser)

    def run(arguments: argparse.Namespace) -> None:
        from .training import evaluate_config

        evaluate_config(configuration(arguments))

    parser.set_defaults(run=run)


def export(parser: Parser) -> None:
    add_config_arguments(parser)
    text = "of the program; bf16, with Global.export_runtime=channels_last, adds one in bfloat16"
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)

    def run(arguments: argparse.Namespace) -> None:
        from .deploy.export import export

        export(configuration(arguments), arguments.precision)

    parser.set_defaults(run=run)


def infer(parser: Parser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--model-dir", type=path, help="folder with an exported program; otherwise Global.pretrained_model"
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="of the program; default: what it was exported for")
    parser.add_argument(
        "--output", type=path, help="write predictions to this .json or .csv file instead of printing them"
    )

    def run(arguments: argparse.Namespace) -> None:
        from .deploy.infer import infer
        from .deploy.predict import write_predictions

        predictions = infer(configuration(arguments), arguments.model_dir, arguments.precision)
        if arguments.output:
            write_predictions(predictions, arguments.output)
            return
        for prediction in predictions:
            print(prediction)

    parser.set_defaults(run=run)


# ----------------------------------------------------------------------------------------------------------------------
# Weights and networks


def convert(parser: Parser) -> None:
    parser.add_argument("source", type=path, help=".pth, .safetensors, .pdparams or .pkl file")
    parser.add_argument("target", type=path, help=".pdparams or .safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a PyTorch training")
    parser.add_argument(
        "--check", type=path, metavar="IMAGE", help="run the converted network on an image, print its top-5"
    )
    parser.add_argument(
        "--size", type=positive, help="side of the image for --check, in pixels (default: as published)"
    )

    def run(arguments: argparse.Namespace) -> None:
        from .checkpoints import convert

        print(convert(arguments.source, arguments.target, arguments.ema))
        if arguments.check:
            from .deploy.from_weights import predict_with_weights

            print(predict_with_weights(arguments.target, arguments.check, arguments.size, arguments.source))

    parser.set_defaults(run=run)


def erf(parser: Parser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=WEIGHTS",
        help="network of ours or of paddleclas; without =WEIGHTS they are random; may be repeated",
    )
    parser.add_argument("--images", type=path, required=True, help="folder of images")
    parser.add_argument("--size", type=positive, default=1024, help="height and width they are resized to")
    parser.add_argument("--limit", type=positive, default=50, help="use so many images at most; default: 50")
    parser.add_argument("--output", type=path, default="output/erf", help="folder of the results; default: output/erf")
    parser.add_argument("--layer", help="use the output of this layer instead of the last feature map")
    default = "default: ImageNet's; 0.5 0.5 0.5 for XL"
    parser.add_argument("--mean", type=float, nargs=3, help=f"of the channels; {default}")
    parser.add_argument("--std", type=float, nargs=3, help=f"of the channels; {default}")
    parser.add_argument("--threads", type=positive, help="math threads; default: all")

    def run(arguments: argparse.Namespace) -> None:
        from .analysis.erf_comparison import Images, compare, read_subject
        from .models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

        use_threads(arguments.threads)
        subjects = [read_subject(text) for text in arguments.model]
        mean, std = arguments.mean or IMAGENET_MEAN, arguments.std or IMAGENET_STD
        images = Images(arguments.images, arguments.size, arguments.limit, mean, std)
        print(compare(subjects, images, arguments.output, arguments.layer).markdown())

    parser.set_defaults(run=run)


def complexity(parser: Parser) -> None:
    output = output_parser()
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")

    def parts(arguments: argparse.Namespace) -> Table:
        from .analysis.sizes import part_table

        return part_table(arguments.network, arguments.size)

    subject = subjects.add_parser("parts", parents=[output], help="one network, stage by stage, in every form")
    subject.add_argument("network", help="name of a network of ours or of paddleclas, or a configuration file")
    subject.add_argument("--size", type=positive, default=224, help="height and width of the image; default: 224")
    subject.set_defaults(table=parts)

    def variants(arguments: argparse.Namespace) -> Table:
        from .analysis.sizes import variant_table

        return variant_table()

    subject = subjects.add_parser("variants", parents=[output], help="the table of README.md")
    subject.set_defaults(table=variants)

    def run(arguments: argparse.Namespace) -> None:
        use_threads(None)
        print_table(arguments)

    parser.set_defaults(run=run)


def output_parser() -> Parser:
    """The argument of every subcommand that prints a table."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--output",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="also write the table to this .md or .csv file",
    )
    return parser


def print_table(arguments: argparse.Namespace) -> None:
    """Print the table that ``arguments.table`` makes, and write it to the files of ``--output``."""
    from .utils.tables import check_destination, write_table

    destinations = [check_destination(path) for path in arguments.output]
    table = arguments.table(arguments)
    print(table.markdown())
    for destination in destinations:
        write_table(table, destination)


# ----------------------------------------------------------------------------------------------------------------------
# The paper's experiments


def study(parser: Parser) -> None:
    tasks = parser.add_subparsers(required=True, metavar="TASK")

    def compare(arguments: argparse.Namespace) -> None:
        from .analysis.small_study import study

        tables = arguments.table or TABLES
        for table in study(arguments.config, tables, arguments.seeds, arguments.output, arguments.override):
            print(table.markdown())

    task = tasks.add_parser("run", help="train them at small scale and compare")
    add_config_arguments(task)
    task.add_argument("--table", type=int, choices=TABLES, action="append", help="may be repeated; default: all")
    task.add_argument("--seeds", type=positive, default=3, help="trainings per network; default: 3")
    task.add_argument(
        "--output", type=path, default="output/study", help="folder; a study that was stopped goes on there"
    )
    task.set_defaults(run=compare)

    def recipes(arguments: argparse.Namespace) -> None:
        from .analysis.recipes import write_recipes
        from .analysis.schema import write_schema

        write_recipes(arguments.folder)
        write_schema(arguments.folder)

    task = tasks.add_parser("recipes", help="write the ImageNet recipe of every row, and the schema that recipes name")
    task.add_argument("folder", type=path, help="configs, in a clone")
    task.set_defaults(run=recipes)


# ----------------------------------------------------------------------------------------------------------------------
# Speed


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


def benchmark_conv(parser: Parser) -> None:
    parser.add_argument("--batch", type=positive, action="append", help="images at once, may be repeated; default: 1")
    parser.add_argument("--backward", action="store_true", help="the gradients instead of the output")
    parser.add_argument(
        "--kernel", type=positive, action="append", default=[], help="kernel size; default: the layers of RepLKNet-31B"
    )
    parser.add_argument("--channels", type=positive, default=128, help="with --kernel")
    parser.add_argument("--side", type=positive, default=56, help="height and width of the map, with --kernel")
    parser.add_argument(
        "--figure", type=path, metavar="FILE", help="with --kernel: plot times to this .png or .svg file"
    )

    def table(arguments: argparse.Namespace) -> Table:
        from .benchmark.kernel_sizes import plot_kernel_sizes
        from .benchmark.layers import SHAPES, measure_layers
        from .utils.cores import default_threads
        from .utils.errors import UserError
        from .utils.figures import check_figure

        if arguments.figure and not arguments.kernel:
            raise UserError(
                "--figure shows times against kernel sizes: give those with --kernel", code="command.arguments"
            )
        figure = arguments.figure and check_figure(arguments.figure)
        shapes = [(arguments.channels, arguments.side, kernel) for kernel in arguments.kernel] or SHAPES
        threads = arguments.threads or default_threads()
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
        from .benchmark.networks import measure_network
        from .utils.cores import default_threads

        sizes, batches = arguments.size or [224], arguments.batch or [1]
        threads = arguments.threads or [default_threads()]
        return measure_network(arguments.name, sizes, batches, threads, arguments.rounds, arguments.native)

    parser.set_defaults(table=table)


def benchmark_train(parser: Parser) -> None:
    parser.add_argument("--size", type=positive, default=224, help="height and width of the images; default: 224")
    parser.add_argument("--batch", type=positive, default=1, help="images at once; default: 1")
    parser.add_argument("--native", action="store_true", help="also stock Paddle, which takes very long")

    def table(arguments: argparse.Namespace) -> Table:
        from .benchmark.training_steps import measure_training
        from .utils.cores import default_threads

        name, size, threads = arguments.name, arguments.size, arguments.threads or default_threads()
        return measure_training(name, size, arguments.batch, threads, arguments.rounds, arguments.native)

    parser.set_defaults(table=table)


def benchmark_data(parser: Parser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--images", type=positive, default=200, help="images per round")

    def table(arguments: argparse.Namespace) -> Table:
        from .benchmark.input import measure_data

        return measure_data(configuration(arguments), arguments.rounds, arguments.images)

    parser.set_defaults(table=table)


CONVERT_EPILOG = "docs/weights.md lists the published files. PyTorch is not needed; nothing in the file is executed."
# name: the function that adds its arguments, what it does, what --help says at its end
COMMANDS: dict[str, tuple[Callable[[Parser], None], str, Optional[str]]] = {
    "train": (train, "Train a network.", EPILOG),
    "eval": (evaluate, "Evaluate trained weights.", EPILOG),
    "export": (export, "Merge, fold, save and verify a program.", EPILOG),
    "infer": (infer, "Predict images with trained weights or with an exported program.", EPILOG),
    "convert": (convert, "Convert a checkpoint of any layout to weights under this package's names.", CONVERT_EPILOG),
    "erf": (erf, "Measure which pixels the centre of a network's last feature map depends on.", None),
    "complexity": (complexity, "Count parameters and multiply-adds.", None),
    "study": (study, "Train the networks of the paper's tables 2, 3, 4, 5 and 11, or write their recipes.", EPILOG),
    "benchmark": (benchmark, "Measure speed. Contestants take turns in one process.", None),
}

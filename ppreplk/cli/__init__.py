"""The ``ppreplk`` command; ``ppreplk --help`` lists its subcommands.

Each subcommand is one function, here or in one of the ``*_commands.py`` beside this file. It adds its arguments to a
parser, and imports what it runs when it runs.
The scripts in ``tools/`` are the same commands under the names that PaddleClas's users know.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Optional

from ..utils.command import (
    Parser,
    add_config_arguments,
    output_parser,
    path,
    positive,
    print_table,
    run_command,
)
from ..utils.version import __version__
from .configs_commands import configs
from .data_commands import check_data
from .draw_commands import draw
from .gpu_commands import gpu_check
from .serve_commands import serve
from .speed_commands import benchmark
from .study_commands import study
from .weights_commands import weights

if TYPE_CHECKING:
    from ..config import Config
    from ..utils.tables import Table

EPILOG = (
    "Keys of the configuration are listed in docs/config.md; README.md has examples. Paths are relative to the current "
    "folder."
)
PRECISIONS = ("fp32", "fp32-bf16x3", "bf16", "int8")  # of exported programs, as in deploy
SUITES = ("paddleseg", "paddledetection")  # into which whole checkpoints are converted
WEIGHTS = ("raw", "averaged", "both")  # of a checkpoint, as in checkpoints.kept_weights


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: its name and its arguments; those of this process unless given.
        prog: what ``--help`` calls it; ``ppreplk NAME`` unless given.

    Returns:
        The exit code: 0, 2 after bad input, 1 where only a part of it is bad and the rest is done, or where a
        check has found something, 130 after Ctrl-C.
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
    from ..config import load_config

    return load_config(arguments.config, arguments.override)


def use_threads(threads: int | None) -> None:
    """Compute with this number of math threads; None is ``OMP_NUM_THREADS``, or all cores."""
    from ..utils.cores import default_threads
    from ..utils.device import set_threads, use_vector_units

    use_vector_units()
    set_threads(threads or default_threads())


# ----------------------------------------------------------------------------------------------------------------------
# From a configuration


def train(parser: Parser) -> None:
    add_config_arguments(parser)

    def run(arguments: argparse.Namespace) -> None:
        from ..training import train

        train(configuration(arguments))

    parser.set_defaults(run=run)


def evaluate(parser: Parser) -> None:
    add_config_arguments(parser)
    text = "of a checkpoint that was trained with EMA; default: those in the file that is named"
    parser.add_argument("--weights", choices=WEIGHTS, help=text)
    text = "write classes, confusions, worst errors, calibration and throughput to this folder, in tables and pictures"
    parser.add_argument("--report", type=path, metavar="DIR", help=text)

    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.eval_report import write_report
        from ..training import evaluate_config
        from ..training.process_watch import watched_processes

        config = configuration(arguments)
        with watched_processes(config.Global.device):
            if arguments.report:
                write_report(config, arguments.report, arguments.weights)
            else:
                evaluate_config(config, arguments.weights)

    parser.set_defaults(run=run)


def export(parser: Parser) -> None:
    add_config_arguments(parser)
    text = (
        "of the program; the others than fp32, with Global.export_runtime=channels_last, add one for AMX, in bfloat16, "
        "or in 8-bit integers, calibrated on images of DataLoader.Train"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)

    def run(arguments: argparse.Namespace) -> None:
        from ..deploy.export import export

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
        from ..deploy.infer import infer
        from ..deploy.predict import write_predictions

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
    text = "the whole model, backbone and heads, as weights of this suite; without it, the backbone or classifier alone"
    parser.add_argument("--for", dest="suite", choices=SUITES, help=text)

    def run(arguments: argparse.Namespace) -> None:
        if arguments.suite:
            print(convert_for(arguments))
            return
        from ..checkpoints.convert import convert

        print(convert(arguments.source, arguments.target, arguments.ema))
        if arguments.check:
            from ..deploy.from_weights import predict_with_weights

            print(predict_with_weights(arguments.target, arguments.check, arguments.size, arguments.source))

    parser.set_defaults(run=run)


def convert_for(arguments: argparse.Namespace) -> object:
    """Convert a whole segmentation or detection model for the suite that ``--for`` names; the report."""
    from ..plugins.whole_checkpoints import convert_whole
    from ..utils.errors import UserError

    if arguments.check or arguments.size:
        text = "--check and --size are for classifiers; a model of a suite is tried with the suite's own tools"
        raise UserError(text, code="command.arguments")
    if arguments.suite == "paddleseg":
        from ..plugins.paddleseg.seg_names import PADDLESEG as suite
    else:
        from ..plugins.paddledetection.det_names import PADDLEDETECTION as suite
    return convert_whole(arguments.source, arguments.target, suite, arguments.ema)


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
        from ..analysis.erf_comparison import Images, compare, read_subject
        from ..models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

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
        from ..analysis.sizes import part_table

        return part_table(arguments.network, arguments.size)

    def kinds(arguments: argparse.Namespace) -> Table:
        from ..analysis.sizes import kind_table

        return kind_table(arguments.network, arguments.size)

    for name, table, text in (
        ("parts", parts, "one network, stage by stage, in every form"),
        ("kinds", kinds, "one network, by kind of convolution, merged"),
    ):
        subject = subjects.add_parser(name, parents=[output], help=text)
        subject.add_argument("network", help="name of a network of ours or of paddleclas, or a configuration file")
        subject.add_argument("--size", type=positive, default=224, help="height and width of the image; default: 224")
        subject.set_defaults(table=table)

    def variants(arguments: argparse.Namespace) -> Table:
        from ..analysis.sizes import variant_table

        return variant_table()

    subject = subjects.add_parser("variants", parents=[output], help="the table of README.md")
    subject.set_defaults(table=variants)

    def run(arguments: argparse.Namespace) -> None:
        use_threads(None)
        print_table(arguments)

    parser.set_defaults(run=run)


CONVERT_EPILOG = "docs/weights.md lists the published files. PyTorch is not needed; nothing in the file is executed."
WEIGHTS_EPILOG = (
    "They are kept in ~/.cache/ppreplk/weights, or in the folder that PPREPLK_WEIGHTS names. PPREPLK_MIRROR is an "
    "address to download from instead of the servers' own; with PPREPLK_OFFLINE=1 nothing is downloaded."
)
SERVE_EPILOG = "docs/serving.md describes the requests and the answers."
DATA_EPILOG = (
    "The exit code is 0 if nothing was found that stops or distorts a training, 1 if something was, and 2 for bad "
    "input. docs/training.md has examples."
)
CONFIGS_EPILOG = (
    "The head of a recipe says what it needs, and the command. Without a clone, 'ppreplk train' stands for 'python "
    "tools/train.py', and '$(which ppreplk) train' for 'tools/train.py' behind the launcher of several GPUs."
)
GPU_EPILOG = "It needs an NVIDIA GPU, nvcc and PyTorch, and neither Paddle nor NumPy; docs/gpu.md says what it prints."
# name: the function that adds its arguments, what it does, what --help says at its end
COMMANDS: dict[str, tuple[Callable[[Parser], None], str, Optional[str]]] = {
    "train": (train, "Train a network.", EPILOG),
    "eval": (evaluate, "Evaluate trained weights.", EPILOG),
    "export": (export, "Merge, fold, save and verify a program.", EPILOG),
    "infer": (infer, "Predict images with trained weights or with an exported program.", EPILOG),
    "check-data": (check_data, "Check a training's images, labels and classes, or split class folders.", DATA_EPILOG),
    "configs": (configs, "Recipes that come with the package: list them, copy them to edit and run.", CONFIGS_EPILOG),
    "serve": (serve, "Serve an exported program over HTTP, with a page to try it.", SERVE_EPILOG),
    "convert": (convert, "Convert a checkpoint of any layout to weights under this package's names.", CONVERT_EPILOG),
    "weights": (weights, "Published weights by name: list, get, verify, convert; push your own.", WEIGHTS_EPILOG),
    "erf": (erf, "Measure which pixels the centre of a network's last feature map depends on.", None),
    "complexity": (complexity, "Count parameters and multiply-adds.", None),
    "draw": (draw, "Draw a network, or a large kernel before and after merging.", None),
    "study": (study, "Train the paper's experiments at small scale, or write their recipes.", EPILOG),
    "benchmark": (benchmark, "Measure speed. Contestants take turns, each in a process of its own.", None),
    "gpu_check": (gpu_check, "Check and time the device kernels on a GPU, beside cuDNN and cuFFT.", GPU_EPILOG),
}

"""``python -m ppreplk.plugins.paddleseg``: PaddleSeg's tools with our networks, and programs that they export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

from ppreplk.utils.command import Parser, path, positive, run_command
from ppreplk.utils.errors import UserError

HANDED_OVER = ("train", "val", "predict", "export")
COMMANDS = (*HANDED_OVER, "run", "digits")
FILES = {"--model_path": "file of weights", "--resume_model": "checkpoint", "--image_path": "image, folder or list"}


def main(arguments: argparse.Namespace) -> None:
    """Run a command; its own arguments come behind its name."""
    rest = list(arguments.arguments)
    if arguments.command == "run":
        _run(rest)
    elif arguments.command == "digits":
        _digits(rest)
    else:
        hand_over(arguments.command, rest)


def hand_over(command: str, arguments: Sequence[str]) -> None:
    """Run a tool of PaddleSeg with our networks registered.

    Raises:
        UserError: there is no PaddleSeg; or the arguments or the configuration name what is not there.
    """
    from ppreplk.plugins.paddleseg import register
    from ppreplk.plugins.paddleseg.seg_model import SUITE
    from ppreplk.plugins.suites import check_files, errors_of_ours

    arguments, given = _without_checkout(arguments)
    checkout = SUITE.open(given)
    register()
    is_help = "-h" in arguments or "--help" in arguments
    if not is_help:
        check_files(arguments, FILES)
        _check(command, arguments)
    with errors_of_ours():
        if command == "export":
            from ppreplk.plugins.paddleseg.seg_export import export, export_parser

            export(export_parser().parse_args(arguments))
            return
        if command != "train":
            _load_strictly()
        if checkout is not None:
            SUITE.run_tool(checkout, command, arguments)
        else:
            from ppreplk.plugins.paddleseg.seg_wheel import run

            run(command, arguments)


def _without_checkout(arguments: Sequence[str]) -> tuple[list[str], Optional[str]]:
    """The arguments for PaddleSeg, and the value of ``--checkout``."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkout", type=path)
    found, rest = parser.parse_known_args(arguments)
    return rest, found.checkout


def _check(command: str, arguments: Sequence[str]) -> None:
    """What PaddleSeg would answer with a traceback, or with the results of a network that is not trained.

    Raises:
        UserError: an argument is missing, or the configuration or a checkpoint is not what it has to be.
    """
    from ppreplk.plugins.paddleseg.seg_checks import check_components, check_data, check_resumable, read_config
    from ppreplk.plugins.suites import option_value, option_values

    config, weights = option_value(arguments, "--config"), option_value(arguments, "--model_path")
    if config is None:
        raise UserError("missing; name a configuration file", code="plugins.missing-argument", where="--config")
    content = read_config(config, option_values(arguments, "--opts")).dic
    if command != "train" and weights is None:
        raise UserError("missing; name trained weights", code="plugins.missing-argument", where="--model_path")
    check_components(content)
    if command == "train":
        check_data(content, ["train_dataset", *(["val_dataset"] if "--do_eval" in arguments else [])])
        check_resumable(option_value(arguments, "--resume_model"))
    elif command == "val":
        check_data(content, ["val_dataset"])


def _load_strictly() -> None:
    """Have weights of networks of ours loaded as a whole or not at all, where PaddleSeg evaluates and predicts."""
    from paddleseg.utils import utils

    from ppreplk.plugins.paddleseg.seg_model import is_ours, load_network

    original = utils.load_entire_model

    def load_entire_model(model: Any, pretrained: Optional[str]) -> None:
        if pretrained is not None and is_ours(model):
            load_network(model, pretrained)
        else:
            original(model, pretrained)

    utils.load_entire_model = load_entire_model


def command_parser(command: str) -> Parser:
    """The arguments behind a command's name. A checkout's own tools take more than this for those handed over."""
    if command in ("run", "digits"):
        return _run_parser() if command == "run" else _digits_parser()
    if command == "export":
        from ppreplk.plugins.paddleseg.seg_export import export_parser

        return export_parser()
    from ppreplk.plugins.paddleseg.seg_wheel import tool_parser

    return tool_parser(command)


def _run_parser() -> Parser:
    parser = Parser(
        prog="python -m ppreplk.plugins.paddleseg run",
        description="Run an exported program on images, and write pictures with the classes painted over them.",
    )
    parser.add_argument("--model-dir", type=path, required=True, help="folder that export wrote")
    parser.add_argument("--images", type=path, required=True, help="an image, a folder, or a .txt list")
    parser.add_argument("--output", type=path, required=True, help="folder of the pictures")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--threads", type=positive, help="math threads on a CPU")
    return parser


def _run(arguments: Sequence[str]) -> None:
    from ppreplk.plugins.paddleseg.seg_predictor import SegmentationPredictor
    from ppreplk.plugins.suite_images import draw_images

    given = _run_parser().parse_args(arguments)
    predictor = SegmentationPredictor(given.model_dir, given.device, given.threads)
    for picture in draw_images(predictor.picture, given.images, given.output):
        print(picture)


def _digits_parser() -> Parser:
    parser = Parser(
        prog="python -m ppreplk.plugins.paddleseg digits",
        description="Write a small segmentation data set: handwritten digits, which ship with scikit-learn, on noise.",
    )
    parser.add_argument("folder", type=path)
    parser.add_argument("--train", type=positive, default=400, help="training images")
    parser.add_argument("--val", type=positive, default=100, help="held-out images")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _digits(arguments: Sequence[str]) -> None:
    from ppreplk.data.digit_scenes import write_segmentation

    given = _digits_parser().parse_args(arguments)
    write_segmentation(given.folder, given.train, given.val, given.seed)


def make_parser() -> Parser:
    """Of the command's name; what is behind it is read by the command."""
    parser = Parser(
        prog="python -m ppreplk.plugins.paddleseg",
        description="PaddleSeg's tools with our networks registered: those of a source checkout (the current folder, "
        "--checkout DIR or PADDLESEG), or the wheel.",
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; --help behind its name lists them")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))

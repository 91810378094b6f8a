"""``python -m ppreplk.plugins.paddleseg``: PaddleSeg's tools with our networks, and programs that they export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Optional

from ppreplk.plugins.suite_commands import digits_parser, launcher_parser, run_parser, without_checkout
from ppreplk.utils.command import Parser, run_command
from ppreplk.utils.errors import UserError

PROG = "python -m ppreplk.plugins.paddleseg"
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

    arguments, given = without_checkout(arguments)
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


def _check(command: str, arguments: Sequence[str]) -> None:
    """What PaddleSeg would answer with a traceback, or with the results of a network that is not trained.

    Raises:
        UserError: an argument is missing, or the configuration or a checkpoint is not what it has to be.
    """
    from ppreplk.plugins.paddleseg.seg_checks import check_components, check_data, check_resumable, read_config
    from ppreplk.plugins.suites import option_value, option_values

    needed = {"--config": "a configuration file"}
    if command != "train":
        needed["--model_path"] = "trained weights"
    if command == "predict":
        needed["--image_path"] = "an image, a folder of images, or a list of images"
    if "--is_slide" in arguments:
        needed |= {"--crop_size": "width and height of a window", "--stride": "width and height of a step"}
    for option, what in needed.items():
        if option_value(arguments, option) is None:
            raise UserError(f"missing; name {what}", code="plugins.missing-argument", where=option)
    content = read_config(str(option_value(arguments, "--config")), option_values(arguments, "--opts")).dic
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
    return run_parser(f"{PROG} run", "the classes painted over them")


def _run(arguments: Sequence[str]) -> None:
    from ppreplk.plugins.paddleseg.seg_predictor import SegmentationPredictor
    from ppreplk.plugins.suite_images import draw_images

    given = _run_parser().parse_args(arguments)
    predictor = SegmentationPredictor(given.model_dir, given.device, given.threads)
    for picture in draw_images(predictor.picture, given.images, given.output):
        print(picture)


def _digits_parser() -> Parser:
    return digits_parser(f"{PROG} digits", "segmentation data set")


def _digits(arguments: Sequence[str]) -> None:
    from ppreplk.data.digit_scenes import write_segmentation

    given = _digits_parser().parse_args(arguments)
    write_segmentation(given.folder, given.train, given.val, given.seed)


def make_parser() -> Parser:
    """Of the command's name; what is behind it is read by the command."""
    return launcher_parser(PROG, "PaddleSeg", "PADDLESEG", COMMANDS)


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))

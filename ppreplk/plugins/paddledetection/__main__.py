"""``python -m ppreplk.plugins.paddledetection``: PaddleDetection's tools with our networks, and what they export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from ...utils.command import Parser, run_command
from ...utils.errors import UserError
from ..suite_commands import digits_parser, launcher_parser, run_parser, without_checkout

PROG = "python -m ppreplk.plugins.paddledetection"
HANDED_OVER = ("train", "eval", "infer", "export")
COMMANDS = (*HANDED_OVER, "run", "digits")
FILES = {"--infer_img": "image", "--infer_dir": "folder", "--infer_list": "list of images"}


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
    """Run a tool of PaddleDetection with our networks registered.

    Raises:
        UserError: there is no PaddleDetection; or the arguments or the configuration name what is not there.
    """
    from ..suites import check_files, errors_of_ours, option_value, option_values
    from . import register
    from .det_checks import (
        check_data,
        check_device,
        check_parts,
        check_resumable,
        check_weights_named,
        read_config,
        whole_weights,
    )
    from .det_export import check_arguments, proved_exports
    from .det_suite import SUITE
    from .det_wheel import run

    arguments, given = without_checkout(arguments)
    checkout = SUITE.open(given)
    register()
    if "-h" not in arguments and "--help" not in arguments:
        check_files(arguments, FILES)
        config = read_config(option_value(arguments, "-c", "--config"), option_values(arguments, "-o", "--opt"))
        check_parts(config)
        if command != "export":  # which runs on the CPU
            check_device(config)
        if command == "train":
            check_data(config, ["TrainDataset", *(["EvalDataset"] if "--eval" in arguments else [])])
            check_resumable(option_value(arguments, "-r", "--resume"))
        else:
            check_weights_named(config)
        if command == "infer" and option_value(arguments, *FILES) is None:
            text = "name an image with --infer_img or a folder with --infer_dir"
            raise UserError(text, code="plugins.missing-argument")
        if command == "eval":
            check_data(config, ["EvalDataset"])
        if command == "export":
            check_arguments(arguments)
    with ExitStack() as stack:
        if command != "train":
            stack.enter_context(whole_weights())
        if command == "export":
            stack.enter_context(proved_exports())
        if checkout is not None:
            SUITE.run_tool(checkout, command, arguments)
        else:
            with errors_of_ours():
                run(command, arguments)


def command_parser(command: str) -> Parser:
    """The arguments behind a command's name. A checkout's own tools take more than this for those handed over."""
    if command in ("run", "digits"):
        return _run_parser() if command == "run" else _digits_parser()
    from .det_wheel import tool_parser

    return tool_parser(command)


def _run_parser() -> Parser:
    parser = run_parser(f"{PROG} run", "boxes, and masks if there are some")
    parser.add_argument("--threshold", type=float, help="what has a lower score is not drawn; default: the program's")
    return parser


def _run(arguments: Sequence[str]) -> None:
    from ..suite_images import draw_images
    from .det_predictor import DetectionPredictor

    given = _run_parser().parse_args(arguments)
    predictor = DetectionPredictor(given.model_dir, given.device, given.threads)
    for picture in draw_images(lambda file: predictor.picture(file, given.threshold), given.images, given.output):
        print(picture)


def _digits_parser() -> Parser:
    return digits_parser(f"{PROG} digits", "data set in COCO's format")


def _digits(arguments: Sequence[str]) -> None:
    from ...data.digit_scenes import write_coco

    given = _digits_parser().parse_args(arguments)
    write_coco(given.folder, given.train, given.val, given.seed)


def make_parser() -> Parser:
    """Of the command's name; what is behind it is read by the command."""
    return launcher_parser(PROG, "PaddleDetection", "PADDLEDETECTION", COMMANDS)


if __name__ == "__main__":
    sys.exit(run_command(main, make_parser()))

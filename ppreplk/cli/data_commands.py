"""``ppreplk check-data``: it adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse

from ..utils.command import Parser, add_config_arguments, path, positive
from ..utils.errors import Incomplete, UserError


def check_data(parser: Parser) -> None:
    parser.usage = (
        f"{parser.prog} [-h] -c CONFIG [-o KEY.SUB=VALUE] [--report DIR] [--workers N]\n"
        f"       {parser.prog} [-h] --split SHARE --images FOLDER --output DIR [--seed N] [--workers N]\n"
        f"       {parser.prog} [-h] --imagenet FOLDER [--val-labels FILE]"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--report", type=path, metavar="DIR", help="also write an HTML page and a table to this folder")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes that read images; default: all cores")
    lists = parser.add_argument_group("lists from class folders")
    lists.add_argument("--split", type=share, metavar="SHARE", help="part of each class to train on, 0.8 for example")
    lists.add_argument("--images", type=path, metavar="FOLDER", help="folder of the class folders")
    lists.add_argument("--output", type=path, metavar="DIR", help="folder for train_list.txt, val_list.txt, labels.txt")
    lists.add_argument("--seed", type=seed, default=0, metavar="N", help="of the draw; default: 0")
    imagenet = parser.add_argument_group("lists of ImageNet")
    text = "write its lists into FOLDER, which has train/WNID/..., and val/ with or without such folders"
    imagenet.add_argument("--imagenet", type=path, metavar="FOLDER", help=text)
    text = "the classes of the images in val/, LOC_val_solution.csv for example"
    imagenet.add_argument("--val-labels", type=path, metavar="FILE", help=text)
    parser.set_defaults(run=run)


def share(text: str) -> float:
    """The type of ``--split``: a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return value


def seed(text: str) -> int:
    """The type of ``--seed``: a whole number from 0 on."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    from ..utils.cores import available_cores

    workers = arguments.workers or available_cores()
    if arguments.imagenet or arguments.val_labels:
        list_imagenet(arguments)
        return
    if arguments.split is not None:
        split(arguments, workers)
        return
    if arguments.config is None:
        raise UserError(
            "give -c CONFIG to check data, or --split SHARE or --imagenet FOLDER to make lists",
            code="command.arguments",
        )
    if arguments.images or arguments.output:
        raise UserError("--images and --output go with --split; with -c, DataLoader has them", code="command.arguments")
    check(arguments, workers)


def list_imagenet(arguments: argparse.Namespace) -> None:
    from ..data.imagenet_lists import write_imagenet_lists

    if arguments.imagenet is None:
        raise UserError("--val-labels goes with --imagenet FOLDER", code="command.arguments")
    others = ("config", "override", "report", "split", "images", "output")
    if any(getattr(arguments, name) for name in others):
        raise UserError("--imagenet makes lists of its own: give it alone", code="command.arguments")
    print(write_imagenet_lists(arguments.imagenet, arguments.val_labels))


def check(arguments: argparse.Namespace, workers: int) -> None:
    from pathlib import Path

    from ..config import load_config
    from ..data.survey import survey
    from ..data.survey_findings import DISTORTS, STOPS
    from ..data.survey_page import write_report
    from ..data.survey_text import text_report, verdict
    from ..utils.atomic import make_folder

    config = load_config(arguments.config, arguments.override)
    if arguments.report:
        make_folder(Path(arguments.report), "--report")
    found = survey(config, workers)
    print(text_report(found))
    if arguments.report:
        for written in write_report(found, arguments.report):
            print(f"wrote {written}")
    if found.findings.total(STOPS) or found.findings.total(DISTORTS):
        raise Incomplete(verdict(found.findings), code="data.findings")


def split(arguments: argparse.Namespace, workers: int) -> None:
    from ..data.splitting import split_folder

    if arguments.config or arguments.report or arguments.override:
        raise UserError("--split makes lists and takes no -c, -o or --report", code="command.arguments")
    if not arguments.images or not arguments.output:
        raise UserError("--split needs --images FOLDER and --output DIR", code="command.arguments")
    print(split_folder(arguments.images, arguments.output, arguments.split, arguments.seed, workers))

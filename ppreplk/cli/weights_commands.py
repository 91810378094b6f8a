"""The subcommands of ``ppreplk weights``: each adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..utils.command import Parser, output_parser, path, print_table

if TYPE_CHECKING:
    from ..utils.tables import Table


def weights(parser: Parser) -> None:
    tasks = parser.add_subparsers(required=True, metavar="TASK")
    list_weights(tasks.add_parser("list", parents=[output_parser()], help="the published files, and which are here"))
    get(tasks.add_parser("get", help="download published weights, unless they are here"))
    verify(tasks.add_parser("verify", help="compare a file with what is published of it, and read it"))
    convert(tasks.add_parser("convert", help="published weights, or a file, under this package's names"))
    push(tasks.add_parser("push", help="make a folder for the Hugging Face hub; upload it if asked"))


def list_weights(parser: Parser) -> None:
    def table(arguments: argparse.Namespace) -> Table:
        from ..checkpoints.weights_folder import published_table

        return published_table()

    parser.set_defaults(run=print_table, table=table, needs_paddle=False)


def get(parser: Parser) -> None:
    parser.add_argument("name", nargs="+", help="as ppreplk weights list has it, with or without the source at its end")

    def run(arguments: argparse.Namespace) -> None:
        from ..checkpoints.weights_folder import get

        for name in arguments.name:
            print(get(name))

    parser.set_defaults(run=run, needs_paddle=False)


def verify(parser: Parser) -> None:
    parser.add_argument("file", type=path, help="a file that was downloaded")
    parser.add_argument("--name", help="of the published weights; default: told from the file's name or hash")

    def run(arguments: argparse.Namespace) -> None:
        from ..checkpoints.verification import verify

        print(verify(arguments.file, arguments.name))

    parser.set_defaults(run=run)


def convert(parser: Parser) -> None:
    parser.add_argument(
        "source", help="name of published weights, which are downloaded unless they are here, or a file"
    )
    parser.add_argument("target", type=path, help=".pdparams or .safetensors file to write")

    def run(arguments: argparse.Namespace) -> None:
        from ..checkpoints.convert import WRITERS, check_target, convert
        from ..checkpoints.weights_folder import find_weights

        check_target(arguments.target, WRITERS)  # before anything is downloaded
        print(convert(find_weights(arguments.source), arguments.target))

    parser.set_defaults(run=run)


def push(parser: Parser) -> None:
    parser.add_argument("folder", type=path, help="with the three files of a model on the hub; made unless it exists")
    parser.add_argument(
        "--weights", type=path, help="what to put there: any checkpoint; without it, what is there stays"
    )
    parser.add_argument(
        "--export-dir", type=path, help="a program exported from them, whose export.json the card quotes"
    )
    parser.add_argument("--license", help="of the weights, as the hub calls it; default: the card names none")
    parser.add_argument("--upload", metavar="OWNER/NAME", help="upload the folder to this repository of the hub")

    def run(arguments: argparse.Namespace) -> None:
        from ..checkpoints.push import prepare_folder, upload
        from ..utils.errors import UserError

        if arguments.weights is None:
            if arguments.upload is None or arguments.export_dir or arguments.license:
                text = "--weights names what to put into the folder; without it, --upload alone is possible"
                raise UserError(text, code="command.arguments")
        else:
            prepare_folder(arguments.folder, arguments.weights, arguments.export_dir, arguments.license)
            print(f"wrote {arguments.folder}")
        if arguments.upload:
            print(upload(arguments.folder, arguments.upload))

    parser.set_defaults(run=run)

"""The subcommands of ``ppreplk configs``: each adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..utils.command import Parser, output_parser, path, print_table

if TYPE_CHECKING:
    from ..utils.tables import Table


def configs(parser: Parser) -> None:
    tasks = parser.add_subparsers(required=True, metavar="TASK")
    list_recipes(tasks.add_parser("list", parents=[output_parser()], help="their names, and what each trains"))
    text = "Copy a recipe; into a folder the schema too, from which editors complete."
    copy(tasks.add_parser("copy", help="copy one, or all, to edit and run", description=text))
    parser.set_defaults(needs_paddle=False)


def list_recipes(parser: Parser) -> None:
    def table(arguments: argparse.Namespace) -> Table:
        from ..config.shipped import recipe_table

        return recipe_table()

    parser.set_defaults(run=print_table, table=table)


def copy(parser: Parser) -> None:
    parser.usage = f"{parser.prog} [-h] [--force] NAME [DEST]\n       {parser.prog} [-h] [--force] --all [DEST]"
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the recipe, as ppreplk configs list has it")
    text = "folder, in which the recipe keeps its place, or a .yaml or .yml file; default: configs"
    parser.add_argument("target", nargs="?", metavar="DEST", type=path, help=text)
    parser.add_argument("--all", action="store_true", help="copy every recipe, into the folder DEST")
    parser.add_argument("--force", action="store_true", help="replace files that are there")

    def run(arguments: argparse.Namespace) -> None:
        from ..config.shipped import FOLDER, copy_all_recipes, copy_recipe
        from ..utils.errors import UserError

        name, target = arguments.name, arguments.target
        if arguments.all:
            if target is not None:
                raise UserError(f"--all copies every recipe, {name!r} too; name no recipe", code="command.arguments")
            written = copy_all_recipes(path(name) if name else FOLDER, arguments.force)
        elif name is None:
            raise UserError("name a recipe to copy, or give --all", code="command.arguments")
        else:
            written = copy_recipe(name, target or FOLDER, arguments.force)
        for file in written:
            print(f"wrote {file}")
        if not written:
            print("all of it is there already")

    parser.set_defaults(run=run)

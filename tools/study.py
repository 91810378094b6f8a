"""The paper's tables at small scale: python tools/study.py run -c configs/digits.yaml"""

import sys

from ppreplk.analysis.recipes import write_recipes
from ppreplk.analysis.rows import TABLES
from ppreplk.analysis.small_study import study
from ppreplk.cli import EPILOG, Parser, add_config_arguments, positive, run_without_config


def run(arguments):
    tables = arguments.table or TABLES
    for table in study(arguments.config, tables, arguments.seeds, arguments.output, arguments.override):
        print(table.markdown())


def recipes(arguments):
    write_recipes(arguments.folder)


def parser():
    top = Parser(description="The networks of the paper's tables 2, 3, 4, 5 and 11.", epilog=EPILOG)
    tasks = top.add_subparsers(required=True, metavar="TASK")

    task = tasks.add_parser("run", help="train them at small scale and compare")
    add_config_arguments(task)
    task.add_argument("--table", type=int, choices=TABLES, action="append", help="may be repeated; default: all")
    task.add_argument("--seeds", type=positive, default=3, help="trainings per network; default: 3")
    task.add_argument("--output", default="output/study", help="folder; a study that was stopped goes on there")
    task.set_defaults(task=run)

    task = tasks.add_parser("recipes", help="write the ImageNet recipe of every row")
    task.add_argument("folder", help="configs, in a clone")
    task.set_defaults(task=recipes)
    return top


if __name__ == "__main__":
    sys.exit(run_without_config(lambda arguments: arguments.task(arguments), parser()))

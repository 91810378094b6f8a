"""The subcommands of ``ppreplk study``: each adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse

from ..utils.command import Parser, add_config_arguments, path, positive

TABLES = (2, 3, 4, 5, 11)  # of the paper, as in analysis.rows
GUIDELINE_TABLES = (2, 3, 4, 11)  # as in analysis.guideline_study
GOES_ON = "folder; a study that was stopped goes on there"


def study(parser: Parser) -> None:
    tasks = parser.add_subparsers(required=True, metavar="TASK")
    study_run(tasks.add_parser("run", help="train every row for four epochs and compare"))
    study_guidelines(
        tasks.add_parser("guidelines", help="what the changes of tables 2, 3, 4 and 11 are worth, with intervals")
    )
    study_dense(tasks.add_parser("dense", help="kernel sizes in segmentation and classification of scenes of digits"))
    study_field(tasks.add_parser("field", help="effective receptive fields before and after training"))
    study_finetune(tasks.add_parser("finetune", help="fine-tuning on few images, beside a ResNet18 of paddleclas"))
    study_figures(tasks.add_parser("figures", help="draw the pictures of all results in a folder again"))
    study_recipes(
        tasks.add_parser("recipes", help="write the ImageNet recipe of every row, and the schema that recipes name")
    )


def study_run(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.small_study import study

        tables = arguments.table or TABLES
        for table in study(arguments.config, tables, arguments.seeds, arguments.output, arguments.override):
            print(table.markdown())

    add_config_arguments(task)
    task.add_argument("--table", type=int, choices=TABLES, action="append", help="may be repeated; default: all")
    task.add_argument("--seeds", type=positive, default=3, help="trainings per network; default: 3")
    task.add_argument("--output", type=path, default="output/study", help=GOES_ON)
    task.set_defaults(run=run)


def study_guidelines(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.guideline_study import guideline_study
        from ..analysis.guideline_tables import write_guidelines
        from . import use_threads

        use_threads(None)
        tables = arguments.table or GUIDELINE_TABLES
        scores = guideline_study(tables, arguments.seeds, arguments.longer, arguments.output)
        for table in write_guidelines(scores, arguments.output):
            print(table.markdown())

    task.add_argument(
        "--table", type=int, choices=GUIDELINE_TABLES, action="append", help="may be repeated; default: all"
    )
    task.add_argument("--seeds", type=positive, default=5, help="trainings per network and task; default: 5")
    task.add_argument("--longer", type=positive, default=1, help="train so many times as long; default: 1")
    task.add_argument("--output", type=path, default="output/guidelines", help=GOES_ON)
    task.set_defaults(run=run)


def study_dense(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.dense_study import dense_study
        from . import use_threads

        use_threads(None)
        kernels = arguments.kernel or [3, 13]
        print(dense_study(kernels, arguments.seeds, arguments.steps, arguments.output).markdown())

    task.add_argument("--kernel", type=positive, action="append", help="size, may be repeated; default: 3 and 13")
    task.add_argument("--seeds", type=positive, default=5, help="trainings per kernel and task; default: 5")
    task.add_argument("--steps", type=positive, default=300, help="of a training, 8 scenes each; default: 300")
    task.add_argument("--output", type=path, default="output/dense", help=GOES_ON)
    task.set_defaults(run=run)


def study_field(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.trained_field import field_study
        from . import use_threads

        use_threads(None)
        print(field_study(arguments.kernel or [3, 13, 31], arguments.steps, arguments.output).markdown())

    task.add_argument("--kernel", type=positive, action="append", help="size, may be repeated; default: 3, 13 and 31")
    task.add_argument("--steps", type=positive, default=300, help="of a training, 8 scenes each; default: 300")
    task.add_argument("--output", type=path, default="output/field", help="folder of the results")
    task.set_defaults(run=run)


def study_finetune(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.finetune_study import finetune_study

        for table in finetune_study(arguments.config, arguments.seeds, arguments.output, arguments.override):
            print(table.markdown())

    add_config_arguments(task)
    help_of_seeds = "draws of images on which two networks are compared; default: 10"
    task.add_argument("--seeds", type=positive, default=10, help=help_of_seeds)
    task.add_argument("--output", type=path, default="output/finetune_study", help=GOES_ON)
    task.set_defaults(run=run)


def study_figures(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.study_figures import draw_figures

        for file in draw_figures(arguments.folder):
            print(file)

    task.add_argument("folder", type=path, help="of results, such as docs/large_kernels in a clone")
    task.set_defaults(run=run)


def study_recipes(task: Parser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        from ..analysis.recipes import write_recipes
        from ..analysis.schema import write_schema

        write_recipes(arguments.folder)
        write_schema(arguments.folder)

    task.add_argument("folder", type=path, help="configs, in a clone")
    task.set_defaults(run=run)

"""Parameters and multiply-adds: python tools/complexity.py parts RepLKNet31B --size 224"""

import sys

from ppreplk.analysis.sizes import part_table, variant_table
from ppreplk.cli import EPILOG, Parser, positive, run_without_config
from ppreplk.utils.cores import default_threads
from ppreplk.utils.device import set_threads, use_vector_units
from ppreplk.utils.tables import check_destination, write_table


def main(arguments):
    use_vector_units()
    set_threads(default_threads())
    destinations = [check_destination(path) for path in arguments.output]
    table = arguments.table(arguments)
    print(table.markdown())
    for destination in destinations:
        write_table(table, destination)


def parser():
    common = Parser(add_help=False)
    common.add_argument(
        "--output", action="append", default=[], metavar="FILE", help="also write the table to this .md or .csv file"
    )
    top = Parser(description="Count parameters and multiply-adds.", epilog=EPILOG)
    subjects = top.add_subparsers(required=True, metavar="SUBJECT")

    subject = subjects.add_parser("parts", parents=[common], help="one network, stage by stage, in every form")
    subject.add_argument("network", help="name of a network of ours or of paddleclas, or a configuration file")
    subject.add_argument("--size", type=positive, default=224, help="height and width of the image; default: 224")
    subject.set_defaults(table=lambda arguments: part_table(arguments.network, arguments.size))

    subject = subjects.add_parser("variants", parents=[common], help="the table of README.md")
    subject.set_defaults(table=lambda arguments: variant_table())
    return top


if __name__ == "__main__":
    sys.exit(run_without_config(main, parser()))

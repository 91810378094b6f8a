"""Measure: python tools/benchmark.py data -c configs/replknet31b.yaml"""

import argparse
import sys

from ppreplk.benchmark.data import measure_data
from ppreplk.benchmark.tables import check_destination, write_table
from ppreplk.cli import add_config_arguments, positive, run_without_config
from ppreplk.config import load_config


def data(arguments):
    config = load_config(arguments.config, arguments.override)
    return measure_data(config, arguments.rounds, arguments.images)


def main(arguments):
    destinations = [check_destination(path) for path in arguments.output]
    table = arguments.measure(arguments)
    print(table.markdown())
    for destination in destinations:
        write_table(table, destination)


def parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=positive, default=7, help="turns each contestant takes; medians are over them")
    common.add_argument(
        "--output", action="append", default=[], metavar="FILE", help="also write the table to this .md or .csv file"
    )
    top = argparse.ArgumentParser(description="Measure speed. Contestants take turns in one process.")
    subjects = top.add_subparsers(required=True, metavar="SUBJECT")

    subject = subjects.add_parser("data", parents=[common], help="decoding and transforms, per core")
    add_config_arguments(subject)
    subject.add_argument("--images", type=positive, default=200, help="images per round")
    subject.set_defaults(measure=data)
    return top


if __name__ == "__main__":
    sys.exit(run_without_config(main, parser()))

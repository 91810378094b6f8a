"""``ppreplk draw``: it adds its arguments, and imports what it runs when it runs."""

from __future__ import annotations

import argparse

from ..utils.command import Parser, path, positive


def draw(parser: Parser) -> None:
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")

    def network(arguments: argparse.Namespace) -> None:
        from ..analysis.drawing import draw_network

        print(f"wrote {draw_network(arguments.network, arguments.size, arguments.output)}")

    subject = subjects.add_parser("network", help="layers and shapes of a RepLKNet, and its blocks in detail")
    subject.add_argument("network", help="name of a network of ours")
    subject.add_argument("--size", type=positive, default=224, help="height and width of the image; default: 224")
    subject.add_argument("--output", type=path, default="network.svg", help=".svg file; default: network.svg")
    subject.set_defaults(run=network)

    def merge(arguments: argparse.Namespace) -> None:
        from ..analysis.drawing import draw_merge

        print(draw_merge(arguments.weights, arguments.layer, arguments.channels, arguments.output).markdown())
        print(f"wrote {arguments.output}")

    subject = subjects.add_parser("merge", help="a large kernel before and after merging, from trained weights")
    subject.add_argument("weights", type=path, help="checkpoint in train form, of any layout")
    subject.add_argument("--layer", help="name of the layer; default: the first with a parallel kernel")
    subject.add_argument("--channels", type=positive, default=3, help="how many to draw; default: 3")
    subject.add_argument("--output", type=path, default="merge.png", help=".png or .svg file; default: merge.png")
    subject.set_defaults(run=merge)

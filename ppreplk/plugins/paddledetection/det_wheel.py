"""PaddleDetection's tools for its wheel, which has none: the same core arguments, handed to its ``Trainer``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle

from ...data.listing import find_images
from ...utils.command import Parser
from ...utils.errors import UserError

NO_EXPORT = (
    "PaddleDetection's wheel cannot export with Paddle 3 (it fails on full graphs and non-maximum suppression); "
    "use a checkout of its develop branch, with --checkout or PADDLEDETECTION"
)


SEED = 0  # that of PaddleDetection's tools


def run(command: str, arguments: Sequence[str]) -> None:
    """Train, evaluate or predict with the wheel, as the tool of that name in a checkout does.

    Raises:
        UserError: the wheel cannot do it.
    """
    COMMANDS[command][1](tool_parser(command).parse_args(arguments))


def tool_parser(command: str) -> Parser:
    """The arguments of a command, those of the tool that most are about."""
    add_arguments, action = COMMANDS[command]
    parser = Parser(prog=f"python -m ppreplk.plugins.paddledetection {command}", description=action.__doc__)
    parser.add_argument("-c", "--config", required=True, help="the configuration, a YAML file")
    parser.add_argument("-o", "--opt", nargs="*", default=[], help="KEY.SUB=VALUE, in the place of the configuration's")
    add_arguments(parser)
    return parser


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--eval", action="store_true", help="evaluate at every snapshot")
    parser.add_argument("-r", "--resume", help="checkpoint to go on from")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--enable_ce", choices=["True"], help="draw the same at every run")


def _train(arguments: argparse.Namespace) -> None:
    """Train a detector."""
    from ppdet.engine import Trainer, init_parallel_env, set_random_seed

    config = _opened(arguments, amp=arguments.amp)
    init_parallel_env()
    if arguments.enable_ce:
        set_random_seed(SEED)
    trainer = Trainer(config, mode="train")
    if arguments.resume is not None:
        trainer.resume_weights(arguments.resume)
    elif config.get("pretrain_weights"):
        trainer.load_weights(config.pretrain_weights)
    trainer.train(arguments.eval)


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_eval", help="folder of the results as JSON")
    parser.add_argument("--classwise", action="store_true", help="the AP of each class")
    parser.add_argument("--amp", action="store_true", help="mixed precision")


def _eval(arguments: argparse.Namespace) -> None:
    """Evaluate a detector: AP of boxes and masks."""
    from ppdet.engine import Trainer, init_parallel_env

    named = {name: getattr(arguments, name) for name in ("output_eval", "classwise", "amp")}
    config = _opened(arguments, **named)
    init_parallel_env()
    trainer = Trainer(config, mode="eval")
    trainer.load_weights(config.weights)
    trainer.evaluate()


def _infer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--infer_img", help="an image")
    parser.add_argument("--infer_dir", help="a folder of images")
    parser.add_argument("--output_dir", default="output", help="folder of the pictures")
    parser.add_argument("--draw_threshold", type=float, default=0.5, help="what has a lower score is not drawn")


def _infer(arguments: argparse.Namespace) -> None:
    """Predict images, and write pictures with boxes."""
    from ppdet.engine import Trainer

    source = arguments.infer_img or arguments.infer_dir
    config = _opened(arguments)
    trainer = Trainer(config, mode="test")
    trainer.load_weights(config.weights)
    trainer.predict(
        find_images(source), draw_threshold=arguments.draw_threshold, output_dir=str(Path(arguments.output_dir))
    )


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="output_inference", help="folder in which the program's folder is made")


def _export(arguments: argparse.Namespace) -> None:
    """Export a detector. Only a checkout can."""
    raise UserError(NO_EXPORT, code="plugins.no-checkout")


def _opened(arguments: argparse.Namespace, **named: Any) -> Any:
    """The configuration, with the device set and what the command line says in it."""
    from ppdet.utils.check import check_config, check_gpu, check_version

    from .det_checks import read_config

    config = read_config(arguments.config, arguments.opt)
    for device in ("use_npu", "use_xpu", "use_mlu", "use_gpu"):
        config.setdefault(device, False)
    config.update(named)
    check_config(config)
    check_gpu(config.use_gpu)
    check_version()
    paddle.set_device("gpu" if config.use_gpu else "cpu")
    return config


COMMANDS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "train": (_train_arguments, _train),
    "eval": (_eval_arguments, _eval),
    "infer": (_infer_arguments, _infer),
    "export": (_export_arguments, _export),
}

"""PaddleSeg's tools for its wheel, which has none: the same core arguments, handed to the functions behind them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...utils.command import Parser


def run(command: str, arguments: Sequence[str]) -> None:
    """Train, evaluate or predict with the wheel, as the tool of that name in a checkout does."""
    COMMANDS[command][1](tool_parser(command).parse_args(arguments))


def tool_parser(command: str) -> Parser:
    """The arguments of ``train``, ``val`` or ``predict``, those of the tool that most are about."""
    add_arguments, action = COMMANDS[command]
    parser = Parser(prog=f"python -m ppreplk.plugins.paddleseg {command}", description=action.__doc__)
    parser.add_argument("--config", required=True, help="the configuration, a YAML file")
    parser.add_argument("--device", default="gpu", choices=["cpu", "gpu"], help="default: gpu, if there is one")
    add_arguments(parser)
    return parser


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iters", type=int, help="iterations")
    parser.add_argument("--batch_size", type=int, help="images of one process and iteration")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--save_dir", default="./output", help="folder of the checkpoints")
    parser.add_argument("--save_interval", type=int, default=1000, help="iterations between checkpoints")
    parser.add_argument("--keep_checkpoint_max", type=int, default=5, help="checkpoints that are kept")
    parser.add_argument("--log_iters", type=int, default=10, help="iterations between log lines")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--resume_model", help="folder of a checkpoint to go on from")
    parser.add_argument("--do_eval", action="store_true", help="evaluate at every checkpoint")
    parser.add_argument("--use_ema", action="store_true", help="average the weights")
    parser.add_argument("--use_vdl", action="store_true", help="write a log for VisualDL")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16"])
    parser.add_argument("--amp_level", default="O1", choices=["O1", "O2"])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--opts", nargs="+", help="KEY.SUB=VALUE, in the place of the configuration's")


def _train(arguments: argparse.Namespace) -> None:
    """Train a network."""
    from paddleseg.core import train

    changes = {name: getattr(arguments, name) for name in ("learning_rate", "iters", "batch_size")}
    config, builder, utils = _opened(arguments, **changes)
    utils.set_seed(arguments.seed)
    utils.set_cv2_num_threads(arguments.num_workers)
    train(
        utils.convert_sync_batchnorm(builder.model, arguments.device),
        builder.train_dataset,
        **_served(
            train,
            {
                **vars(arguments),
                "iters": config.iters,
                "batch_size": config.batch_size,
                "val_dataset": builder.val_dataset if arguments.do_eval else None,
                "optimizer": builder.optimizer,
                "losses": builder.loss,
                "test_config": config.test_config,
                "to_static_training": config.to_static_training,
            },
        ),
    )


def _test_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", help="trained weights")
    parser.add_argument("--scales", nargs="+", type=float, default=1.0, help="sizes to average over")
    parser.add_argument("--flip_horizontal", action="store_true", help="average with the mirrored image")
    parser.add_argument("--flip_vertical", action="store_true")
    parser.add_argument("--is_slide", action="store_true", help="predict window by window")
    parser.add_argument("--crop_size", nargs=2, type=int, help="of a window: width, height")
    parser.add_argument("--stride", nargs=2, type=int, help="of the windows: width, height")


def _test_config(config: Any, arguments: argparse.Namespace, augmented: str) -> dict[str, Any]:
    settings = dict(config.test_config)
    if getattr(arguments, augmented):
        keys = ("scales", "flip_horizontal", "flip_vertical")
        settings |= {augmented: True, **{key: getattr(arguments, key) for key in keys}}
    if arguments.is_slide:
        settings |= {key: getattr(arguments, key) for key in ("is_slide", "crop_size", "stride")}
    return settings


def _val_arguments(parser: argparse.ArgumentParser) -> None:
    _test_arguments(parser)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--aug_eval", action="store_true", help="average over --scales and mirrored images")
    parser.add_argument("--opts", nargs="+", help="KEY.SUB=VALUE, in the place of the configuration's")


def _val(arguments: argparse.Namespace) -> None:
    """Evaluate a network: mIoU, accuracy, and the IoU of each class."""
    from paddleseg.core import evaluate

    config, builder, utils = _opened(arguments)
    if arguments.model_path:
        utils.load_entire_model(builder.model, arguments.model_path)
    settings = _test_config(config, arguments, "aug_eval")
    evaluate(builder.model, builder.val_dataset, num_workers=arguments.num_workers, **_served(evaluate, settings))


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    _test_arguments(parser)
    parser.add_argument("--image_path", required=True, help="an image, a folder of images, or a list of images")
    parser.add_argument("--save_dir", default="./output/result", help="folder of the pictures")
    parser.add_argument("--aug_pred", action="store_true", help="average over --scales and mirrored images")
    parser.add_argument("--custom_color", nargs="+", type=int, help="red, green and blue of each class")


def _predict(arguments: argparse.Namespace) -> None:
    """Predict images, and write pictures of the classes."""
    from paddleseg.core import predict
    from paddleseg.transforms import Compose
    from paddleseg.utils import get_image_list

    config, builder, _ = _opened(arguments)
    images, folder = get_image_list(arguments.image_path)
    settings = _test_config(config, arguments, "aug_pred")
    predict(
        builder.model,
        model_path=arguments.model_path,
        transforms=Compose(builder.val_transforms),
        image_list=images,
        image_dir=folder,
        save_dir=arguments.save_dir,
        **_served(predict, {**settings, "custom_color": arguments.custom_color}),
    )


def _opened(arguments: argparse.Namespace, **changes: Any) -> tuple[Any, Any, Any]:
    """Configuration, what builds its parts, and PaddleSeg's helpers."""
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.utils import utils

    config = Config(arguments.config, opts=getattr(arguments, "opts", None), **changes)
    utils.show_env_info()
    utils.show_cfg_info(config)
    utils.set_device(arguments.device)
    return config, SegBuilder(config), utils


def _served(function: Callable, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that this version of the function takes, but for the first two, which have their place."""
    taken = list(inspect.signature(function).parameters)[2:]
    return {name: value for name, value in arguments.items() if name in taken}


COMMANDS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "train": (_train_arguments, _train),
    "val": (_val_arguments, _val),
    "predict": (_predict_arguments, _predict),
}

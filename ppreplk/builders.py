"""From sections of a configuration to the objects they describe."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import paddle
from paddle import nn
from paddle.optimizer.lr import LambdaDecay

from .config import ArchConfig, Config, Op, Ops, OptimizerConfig, check_arguments, construct, find_op, typed
from .data.digits import LISTS, prepare_digits
from .errors import UserError, nearest
from .losses import LOSSES, CombinedLoss
from .metrics import METRICS, TopkAcc
from .models.registry import find_model, list_models
from .ops.depthwise_conv import AUTO, prepare
from .optim import OPTIMIZERS, SCHEDULES
from .preprocessing import check_preprocessing
from .runtime import processes
from .weights import load_checkpoint, load_weights

logger = logging.getLogger(__name__)

UNSERVED_SCHEDULES = dict.fromkeys(
    ("Cyclic", "Step", "Piecewise", "ReduceOnPlateau", "CosineFixmatch", "OneCycleLR"),
    "use Cosine, Linear, MultiStepDecay or ConstLR",
)
UNSERVED_OPTIMIZERS = dict.fromkeys(("SGD", "Adam", "RMSProp", "AdamWDL"), "use AdamW or Momentum")
UNSERVED_LOSSES = {"MixCELoss": "PaddleClas replaced it by CELoss"}


def build_network(arch: ArchConfig) -> nn.Layer:
    """The network of the ``Arch`` section, with initial weights: ours, or a backbone of the installed paddleclas.

    Raises:
        UserError: unknown name (nearest names are listed), unknown or unfitting arguments.
    """
    model = _own_network(arch) if arch.name in list_models() else _paddleclas_network(arch)
    if arch.use_sync_bn:
        if processes() > 1 and paddle.get_device().startswith("gpu"):
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        logger.info("Arch.use_sync_bn has no effect here: it synchronizes several GPUs")
    return model


def _own_network(arch: ArchConfig) -> nn.Layer:
    if arch.arguments.get("out_indices") is not None:
        raise UserError("Arch.out_indices: makes a backbone; the tools train and run classifiers")
    if arch.arguments.get("in_channels", 3) != 3:
        raise UserError(f"Arch.in_channels: the transforms make 3 channels, got {arch.arguments['in_channels']}")
    given = {"class_num": arch.class_num}
    entry = find_model(arch.name)
    arguments = check_arguments(entry.architecture, arch.arguments, "Arch", given, complete=False)
    try:
        prepare(arguments.get("depthwise_impl", AUTO))
        return entry.build(**arguments)
    except UserError as error:
        raise UserError(f"Arch: {error}") from error


def _paddleclas_network(arch: ArchConfig) -> nn.Layer:
    """A baseline; its constructor checks no arguments of its own, so what it rejects is reported as it says it."""
    names: list[str] = []
    if importlib.util.find_spec("paddleclas") is not None:
        from paddleclas.ppcls.arch import backbone

        names = [name for name in dir(backbone) if name[0].isupper() and callable(getattr(backbone, name))]
    if arch.name not in names:
        ours = list_models()
        listed = [*ours, "backbones of paddleclas"] if names else ours
        raise UserError(f"Arch.name: unknown model {arch.name!r}{nearest(arch.name, [*ours, *names], listed)}")
    try:
        return getattr(backbone, arch.name)(class_num=arch.class_num, **arch.arguments)
    except TypeError as error:
        raise UserError(f"Arch: paddleclas's {arch.name} does not take these arguments ({error})") from error


def build_trained_network(config: Config) -> nn.Layer:
    """The network with the weights of ``Global.pretrained_model``, for evaluation, export and prediction.

    Raises:
        UserError: no weights are named, or they do not fit.
    """
    path = config.Global.pretrained_model
    if path is None:
        raise UserError(
            "Global.pretrained_model is not set: name the trained weights, for example "
            f"-o Global.pretrained_model={config.Global.output_dir.rstrip('/')}/best_model"
        )
    model = build_network(config.Arch)
    load_pretrained(model, config)
    model.eval()
    return model


def load_pretrained(model: nn.Layer, config: Config, training: bool = False) -> None:
    """Put the weights of ``Global.pretrained_model`` into ``model``.

    Args:
        model: the network of ``config``.
        config: its transforms are compared with those the weights expect; a warning names differences.
        training: a head for another number of classes is then replaced by a new one.

    Raises:
        UserError: no such file, one that holds anything but weights, or weights that do not fit.
    """
    path = config.Global.pretrained_model
    state = load_checkpoint(path)
    load_weights(model, state, path, may_replace_head=training)
    check_preprocessing(config, state, path, training)


def build_loss(ops: Ops) -> CombinedLoss:
    """The criteria of ``Loss.Train`` or ``Loss.Eval``.

    Raises:
        UserError: none, unknown ones, wrong arguments, or the same one twice.
    """
    if not ops:
        raise UserError("Loss: at least one criterion is needed, for example CELoss")
    criteria: dict[str, nn.Layer] = {}
    for op in ops:
        if op.name in criteria:
            raise UserError(f"{op.where}: {op.name} is listed twice")
        criteria[op.name] = construct(find_op(op, LOSSES, UNSERVED_LOSSES, "loss"), op.arguments, op.where)
    return CombinedLoss(criteria)


def build_metric(ops: Ops) -> TopkAcc | None:
    """The metric of ``Metric.Train`` or ``Metric.Eval``; None for an empty list.

    Raises:
        UserError: unknown metric or arguments, or more than one.
    """
    if not ops:
        return None
    if len(ops) > 1:
        raise UserError(f"{ops[1].where}: one metric can be given, found {len(ops)}")
    return construct(find_op(ops[0], METRICS, {}, "metric"), ops[0].arguments, ops[0].where)


def build_schedule(config: OptimizerConfig, epochs: int, per_epoch: int) -> LambdaDecay:
    """The schedule of ``Optimizer.lr``, stepped once per optimizer step.

    Args:
        config: the ``Optimizer`` section.
        epochs: of the whole training.
        per_epoch: optimizer steps in an epoch.

    Raises:
        UserError: unknown schedule or arguments.
    """
    op = Op(config.lr.name, config.lr.arguments, config.lr.where)
    factory = find_op(op, SCHEDULES, UNSERVED_SCHEDULES, "schedule")
    return LambdaDecay(1.0, construct(factory, op.arguments, op.where, epochs=epochs, per_epoch=per_epoch))


def build_optimizer(config: OptimizerConfig, schedule: LambdaDecay, model: nn.Layer) -> paddle.optimizer.Optimizer:
    """The optimizer of the ``Optimizer`` section. Each parameter's own ``optimize_attr`` scale is honoured.

    Raises:
        UserError: unknown optimizer or arguments.
    """
    op = Op(config.name, config.arguments, config.where)
    factory = find_op(op, OPTIMIZERS, UNSERVED_OPTIMIZERS, "optimizer")
    return construct(factory, op.arguments, op.where, schedule=schedule, model=model)


def prepare_dataset(config: Config) -> None:
    """Write the data set ``Global.builtin_dataset`` names to where ``DataLoader`` looks for it.

    Raises:
        UserError: it cannot be written, or ``DataLoader`` looks for something else.
    """
    if config.Global.builtin_dataset != "digits":
        return
    for split in (config.DataLoader.Train, config.DataLoader.Eval):
        if split is None:
            continue
        keys = ("image_root", "cls_label_path")
        root, list_file = (typed(split.dataset.arguments.get(key), str, f"{split.dataset.where}.{key}") for key in keys)
        if Path(list_file).parent != Path(root) or Path(list_file).name not in LISTS:
            raise UserError(
                f"{split.dataset.where}: Global.builtin_dataset writes {' and '.join(LISTS)} into image_root, {root}, "
                f"but cls_label_path is {list_file}; name one folder, or set Global.builtin_dataset=null"
            )
        prepare_digits(root)

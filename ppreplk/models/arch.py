"""The section ``Arch`` of a configuration to a network: one of ours, or a backbone of the installed paddleclas."""

from __future__ import annotations

import importlib.util
import logging

import paddle
from paddle import nn

from ..config import ArchConfig, check_arguments
from ..ops.depthwise import AUTO, prepare
from ..utils.distributed import processes
from ..utils.errors import UserError, nearest
from .registry import find_model, list_models

logger = logging.getLogger(__name__)


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

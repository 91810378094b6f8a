"""The section ``Arch`` of a configuration to a network: one of ours, or a backbone of the installed paddleclas."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.utils import unique_name

from ..config import RGB, ArchConfig, check_arguments
from ..ops.depthwise import AUTO, prepare
from ..utils.distributed import processes
from ..utils.errors import UserError, nearest
from ..utils.optional import import_problem
from .registry import Model, architectures, find_model, list_models

logger = logging.getLogger(__name__)


def build_network(arch: ArchConfig) -> nn.Layer:
    """The network of the ``Arch`` section, with initial weights: ours, or a backbone of the installed paddleclas.

    With ``use_sync_bn``, batch normalizations share the statistics of a batch between the GPUs of a training, as in the
    official ImageNet runs. Names and shapes of the weights stay. In one process, or on a CPU, they are ordinary ones.

    Raises:
        UserError: unknown name (nearest names are listed), unknown or unfitting arguments.
    """
    model = _own_network(arch) if arch.name in list_models() else _paddleclas_network(arch)
    if arch.use_sync_bn and processes() > 1:
        if paddle.get_device().startswith("gpu"):
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        logger.info("Arch.use_sync_bn has no effect on a CPU: each process normalizes by its own images")
    return model


def _own_network(arch: ArchConfig) -> nn.Layer:
    if arch.arguments.get("out_indices") is not None:
        raise UserError(
            "makes a backbone; the tools train and run classifiers", code="models.backbone", where="Arch.out_indices"
        )
    return build_checked(arch.name, arch.arguments | {"class_num": arch.class_num})


def build_checked(name: str, arguments: Mapping[str, Any], where: str = "Arch") -> nn.Layer:
    """A network of ours, its arguments as they stand in a section of a configuration.

    Args:
        name: of a model; or of an architecture, whose network then needs all arguments that have no default.
        arguments: of the network, beside those of the variant.
        where: the section, for messages.

    Raises:
        UserError: unknown name, unknown or unfitting arguments.
    """
    by_name = {architecture.name: architecture for architecture in architectures()}
    model = Model(by_name[name], {}) if name in by_name else find_model(name)
    arguments = check_arguments(model.architecture.network, arguments, where, complete=not model.arguments)
    try:
        prepare(arguments.get("depthwise_impl", AUTO))
    except UserError as error:
        raise error.at(f"{where}.depthwise_impl") from error
    try:
        return model.build(**arguments)
    except UserError as error:
        raise error.at(where) from error


def _paddleclas_network(arch: ArchConfig) -> nn.Layer:
    """A baseline. Its constructor checks no arguments, so what it rejects is reported as it says it."""
    backbones, reason = _paddleclas_backbones()
    if arch.name not in backbones:
        ours = list_models()
        listed = [*ours, "backbones of paddleclas"] if backbones else ours
        raise UserError(
            f"unknown model {arch.name!r}{nearest(arch.name, [*ours, *backbones], listed)}{reason}",
            code="models.unknown-model",
            where="Arch.name",
        )
    if arch.in_channels != RGB:
        raise UserError(
            f"the networks of paddleclas read {RGB} channels here, got {arch.in_channels}",
            code="models.bad-argument",
            where="Arch.in_channels",
        )
    try:
        with unique_name.guard():  # some give their parameters fixed names, which Paddle takes once
            return backbones[arch.name](class_num=arch.class_num, **arch.arguments)
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"paddleclas's {arch.name} does not take these arguments ({reason})",
            code="models.bad-argument",
            where="Arch",
        ) from error


def _paddleclas_backbones() -> tuple[dict[str, Any], str]:
    """{name: constructor} of the installed paddleclas, and why it has none where it is broken."""
    problem = import_problem("paddleclas")
    if problem == "No module named 'paddleclas'":
        return {}, ""
    problem = problem or import_problem("paddleclas.ppcls.arch.backbone")
    if problem is not None:  # the name may be a slip of the pen all the same
        return {}, f" (the backbones of paddleclas cannot be imported: {problem})"
    from paddleclas.ppcls.arch import backbone

    names = [name for name in dir(backbone) if name[0].isupper() and callable(getattr(backbone, name))]
    return {name: getattr(backbone, name) for name in names}, ""

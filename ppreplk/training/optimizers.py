"""Optimizers and parameter groups, under PaddleClas's names and defaults.

Type hints of the builders are evaluated at run time (they check the configuration), so they keep to what
Python 3.9 can evaluate.
"""

import logging
from dataclasses import dataclass
from typing import Any, Callable, Literal, Optional

import paddle
from paddle import nn
from paddle.optimizer.lr import LambdaDecay

from ..config import Op, OptimizerConfig, construct, find_op
from ..models.registry import head_of
from ..utils.errors import UserError

logger = logging.getLogger(__name__)


def AdamW(
    schedule: LambdaDecay,
    model: nn.Layer,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Optional[float] = None,
    no_weight_decay_name: Optional[str] = None,
    one_dim_param_no_weight_decay: bool = False,
    clip_norm: Optional[float] = None,
    clip_global_norm: Optional[float] = None,
    head_lr_mult: float = 1.0,
) -> paddle.optimizer.Optimizer:
    """Adam with decoupled weight decay.

    Args:
        schedule: gives the learning rate.
        model: its trainable parameters are optimized.
        beta1, beta2, epsilon: see Adam.
        weight_decay: coefficient; None means no decay, as in PaddleClas.
        no_weight_decay_name: space-separated parts of names; parameters with one of them are not decayed.
        one_dim_param_no_weight_decay: do not decay biases and normalization parameters.
        clip_norm, clip_global_norm: see :func:`gradient_clip`.
        head_lr_mult: factor of the learning rate of the network's last linear layer, such as a new head on trained
            weights needs it.

    Raises:
        UserError: a value out of range.

    >>> AdamW(LambdaDecay(4e-3, lambda step: 1.0), nn.Linear(3, 2), weight_decay=0.05).get_lr()
    0.004
    """
    for name, beta in {"beta1": beta1, "beta2": beta2}.items():
        if not 0.0 <= beta < 1.0:
            raise UserError(f"{name} must be at least 0 and below 1, got {beta}", code="training.bad-value")
    if epsilon <= 0 or (weight_decay or 0.0) < 0:
        raise UserError(
            f"epsilon must be positive and weight_decay not negative, got {epsilon} and {weight_decay}",
            code="training.bad-value",
        )
    _scale_head_rate(model, head_lr_mult)
    exempt = _exempt_from_decay(model, no_weight_decay_name, one_dim_param_no_weight_decay)
    return paddle.optimizer.AdamW(
        schedule,
        beta1,
        beta2,
        epsilon,
        parameters=_trainable(model),
        weight_decay=weight_decay or 0.0,
        apply_decay_param_fun=lambda name: name not in exempt,
        grad_clip=gradient_clip(clip_norm, clip_global_norm),
    )


@dataclass
class L2:
    """``regularizer: {name: L2, coeff: 4e-5}``."""

    coeff: float
    name: Literal["L2"] = "L2"


def Momentum(
    schedule: LambdaDecay,
    model: nn.Layer,
    momentum: float,
    weight_decay: Optional[float] = None,
    use_nesterov: bool = False,
    regularizer: Optional[L2] = None,
    clip_norm: Optional[float] = None,
    clip_global_norm: Optional[float] = None,
) -> paddle.optimizer.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        schedule: gives the learning rate.
        model: its trainable parameters are optimized.
        momentum: between 0 and 1.
        weight_decay: coefficient; it decays every parameter.
        use_nesterov: Nesterov's variant.
        regularizer: PaddleClas's other way to give ``weight_decay``: ``{name: L2, coeff: 4e-5}``.
        clip_norm, clip_global_norm: see :func:`gradient_clip`.

    Raises:
        UserError: a value out of range.

    >>> Momentum(LambdaDecay(0.1, lambda step: 1.0), nn.Linear(3, 2), momentum=0.9).get_lr()
    0.1
    """
    if regularizer is not None:
        weight_decay = regularizer.coeff
    if not 0.0 <= momentum < 1.0 or (weight_decay or 0.0) < 0:
        raise UserError(
            f"momentum must lie in [0, 1) and weight_decay not be negative, got {momentum} and {weight_decay}",
            code="training.bad-value",
        )
    return paddle.optimizer.Momentum(
        schedule,
        momentum,
        parameters=_trainable(model),
        use_nesterov=use_nesterov,
        weight_decay=weight_decay,
        grad_clip=gradient_clip(clip_norm, clip_global_norm),
    )


def gradient_clip(clip_norm: Optional[float], clip_global_norm: Optional[float]) -> Any:
    """Build Paddle's gradient clipping; None where no bound is given.

    Args:
        clip_norm: bounds the norm of each parameter's gradient by itself (PaddleClas's key).
        clip_global_norm: bounds the norm of all gradients together (our key).

    Raises:
        UserError: both bounds, or one that is not positive.
    """
    if clip_norm is not None and clip_global_norm is not None:
        raise UserError(
            "clip_norm (each gradient by itself) and clip_global_norm (all together) exclude each other",
            code="training.bad-value",
        )
    for name, bound in {"clip_norm": clip_norm, "clip_global_norm": clip_global_norm}.items():
        if bound is not None and bound <= 0:
            raise UserError(f"{name} must be positive, got {bound}", code="training.bad-value")
    if clip_norm is not None:
        return nn.ClipGradByNorm(clip_norm)
    return nn.ClipGradByGlobalNorm(clip_global_norm) if clip_global_norm is not None else None


def _trainable(model: nn.Layer) -> list[paddle.Tensor]:
    return [parameter for parameter in model.parameters() if not parameter.stop_gradient]


def _scale_head_rate(model: nn.Layer, factor: float) -> None:
    if factor <= 0:
        raise UserError(f"head_lr_mult must be positive, got {factor}", code="training.bad-value")
    if factor == 1.0:
        return
    parameters, head = dict(model.named_parameters()), head_of(model)
    for name in head:
        if name in parameters:
            parameters[name].optimize_attr["learning_rate"] *= factor
    logger.info("%s learn at %g times the learning rate", " and ".join(head), factor)


def _exempt_from_decay(model: nn.Layer, parts: Optional[str], one_dimensional: bool) -> set[str]:
    """Paddle's internal names of the parameters that are not decayed."""
    parts_list = (parts or "").split()
    return {
        parameter.name
        for name, parameter in model.named_parameters()
        if any(part in name for part in parts_list) or (one_dimensional and len(parameter.shape) == 1)
    }


OPTIMIZERS: dict[str, Callable[..., Any]] = {"AdamW": AdamW, "Momentum": Momentum}
UNSERVED_OPTIMIZERS = dict.fromkeys(("SGD", "Adam", "RMSProp", "AdamWDL"), "use AdamW or Momentum")


def build_optimizer(config: OptimizerConfig, schedule: LambdaDecay, model: nn.Layer) -> paddle.optimizer.Optimizer:
    """Build the optimizer of the ``Optimizer`` section. It honours each parameter's own ``optimize_attr`` scale.

    Raises:
        UserError: an unknown optimizer, or arguments that do not fit.
    """
    op = Op(config.name, config.arguments, config.where)
    factory = find_op(op, OPTIMIZERS, UNSERVED_OPTIMIZERS, "optimizer")
    return construct(factory, op.arguments, op.where, schedule=schedule, model=model)

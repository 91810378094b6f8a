"""A loss that is not finite: where NaN or infinity came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from ..utils.errors import UserError


def not_finite(loss: float, epoch: int, iteration: int, model: nn.Layer, images: paddle.Tensor) -> UserError:
    """The error for a training whose loss has become NaN or infinite."""
    return UserError(
        f"the loss is {loss} in epoch {epoch}, iteration {iteration}; {first_non_finite(model, images)}; "
        "lower Optimizer.lr.learning_rate or lengthen the warm-up; saved checkpoints are untouched",
        code="training.not-finite",
    )


@paddle.no_grad()
def first_non_finite(model: nn.Layer, images: paddle.Tensor) -> str:
    """Say in words where NaN or infinity appears first when ``images`` (N, C, H, W) pass through ``model``."""
    if not _all_finite(images):
        return "the images themselves are not finite"
    trainable = [(name, value) for name, value in model.named_parameters() if not value.stop_gradient]
    bad = [name for name, value in trainable if not _all_finite(value)]
    if bad:
        return f"{len(bad)} parameters are not finite, {bad[0]} first"
    found = _first_layer(model, images)
    return "all layers' outputs are finite" if found is None else f"the first layer with a non-finite output is {found}"


def _first_layer(model: nn.Layer, images: paddle.Tensor) -> str | None:
    """Name of the first layer without sublayers whose output is not finite."""
    found: list[str] = []

    def look_at(name: str) -> Callable[..., None]:
        def look(layer: nn.Layer, inputs: Any, output: Any) -> None:
            if not found and not _all_finite(output):
                found.append(name)

        return look

    leaves = [(name, layer) for name, layer in model.named_sublayers() if not layer.sublayers()]
    hooks = [layer.register_forward_post_hook(look_at(name)) for name, layer in leaves]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _all_finite(value: paddle.Tensor) -> bool:
    return bool(paddle.isfinite(value).all())

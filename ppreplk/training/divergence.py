"""Losses and weights that are not finite: noticing them late, and saying where NaN or infinity came from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import paddle
from paddle import nn

from ..data import Loader
from ..utils.distributed import largest_over_processes, processes, rank, sum_over_processes
from ..utils.errors import UserError
from ..utils.seeds import seed_step
from .meters import BatchValues
from .precision import Precision

logger = logging.getLogger(__name__)

ADVICE = "lower Optimizer.lr.learning_rate or lengthen the warm-up; saved checkpoints are untouched"
FILES_SHOWN = 3  # in the error's one line; the log has all


class DivergenceWatch:
    """Notices numbers that are not finite although nothing is read back from the device at each step.

    Losses are looked at when they are read, some steps after they were computed. By then updates have spread NaN over
    all weights. So the weights are copied after each update while all losses so far were finite. With this copy and
    the batch, which is loaded again, the forward pass that failed is repeated. The copy takes as much memory as the
    weights.

    A loss scaler skips updates that would spoil weights. With one, no copy is needed, and a loss that is not finite
    is no error by itself; see :meth:`ppreplk.training.precision.Precision.exhausted`.

    Args:
        model: (N, C, H, W) -> (N, K).
        loader: of its training images.
        precision: of its forward pass.
        seed: of random draws.
        update_freq: batches in a step.
    """

    def __init__(self, model: nn.Layer, loader: Loader, precision: Precision, seed: int, update_freq: int):
        self.model, self.loader, self.precision = model, loader, precision
        self.seed, self.update_freq = seed, update_freq
        self._checked: BatchValues | None = None  # the last one
        self._spoilt = paddle.to_tensor(False)  # whether a loss so far was not finite
        self._trained = [] if precision.scaler else [p for p in model.parameters() if not p.stop_gradient]
        self._kept = [parameter.detach().clone() for parameter in self._trained]

    @paddle.no_grad()
    def loss_computed(self, loss: paddle.Tensor) -> None:
        """Call with the loss of each batch. Nothing is read."""
        self._spoilt = self._spoilt.logical_or(paddle.isfinite(loss).logical_not())

    @paddle.no_grad()
    def weights_updated(self) -> None:
        """Call after each update. Nothing is read."""
        for kept, parameter in zip(self._kept, self._trained):
            paddle.where_(self._spoilt, kept, parameter)  # in place

    @paddle.no_grad()
    def weights_are_finite(self) -> paddle.Tensor:
        """Whether weights and statistics are finite now, a 0-d bool on the device."""
        return paddle.stack([paddle.isfinite(tensor).all() for _, tensor in _tensors(self.model)]).all()

    def check(self, batches: Sequence[BatchValues], weights_are_finite: bool) -> None:
        """Check what was read of the batches since the last call. All processes must call this together.

        Raises:
            UserError: a loss of this process or of another one is not finite, and the first one is named; or all
                losses are finite, but weights or statistics are not.
        """
        if self.precision.scaler is None:
            self._check_losses(batches)
        if not weights_are_finite:
            self.check_weights(self.model)
        if batches:
            self._checked = batches[-1]

    def _check_losses(self, batches: Sequence[BatchValues]) -> None:
        bad = next((batch for batch in batches if not math.isfinite(batch.values["loss"])), None)
        own = 0 if bad is None else bad.iteration + 1  # 0: none
        counts = sum_over_processes([float(own * (index == rank())) for index in range(processes())])
        first = min((count for count in counts if count > 0), default=0)
        if bad is not None and own == first:
            try:
                self._stop(f"the loss is {bad.values['loss']}", bad.epoch, bad.iteration)
            finally:
                largest_over_processes(0)
        if first > 0:
            largest_over_processes(0)  # wait for the message of that process: all end as soon as one does
            raise UserError(
                f"the loss of process {counts.index(first)} is not finite in iteration {first - 1:g} of this epoch; "
                "its message says more",
                code="training.not-finite",
            )

    @paddle.no_grad()
    def check_weights(self, *networks: nn.Layer) -> None:
        """Check what is about to be saved; losses must have been checked.

        Raises:
            UserError: weights or statistics are not finite.
        """
        tensors = [pair for network in networks for pair in _tensors(network)]
        finite = paddle.stack([paddle.isfinite(tensor).all() for _, tensor in tensors]).numpy()
        bad = [name for (name, _), is_finite in zip(tensors, finite) if not is_finite]
        if bad:
            since = f" after {self._place(*self._checked[:2])}" if self._checked else ""
            raise UserError(
                f"{len(bad)} weights or statistics have become non-finite{since}, {bad[0]} first, while the losses "
                f"stayed finite; {ADVICE}",
                code="training.not-finite",
            )

    def check_scale(self, epoch: int, iteration: int) -> None:
        """Check after an update whether the loss scaler still gets anywhere.

        Raises:
            UserError: it does not.
        """
        reason = self.precision.exhausted()
        if reason is not None:
            self._stop(reason, epoch, iteration)

    def _place(self, epoch: int, iteration: int) -> str:
        steps = len(self.loader) // self.update_freq
        step = (epoch - 1) * steps + iteration // self.update_freq + 1
        return f"epoch {epoch}, iteration {iteration} (step {step})"

    def _stop(self, problem: str, epoch: int, iteration: int) -> NoReturn:
        """Repeat the forward pass of a batch to find the layer, and say which images it held."""
        files = self.loader.files_of(epoch, iteration)
        logger.error("images of epoch %d, iteration %d: %s", epoch, iteration, ", ".join(files))
        images = paddle.to_tensor(self.loader.load(self.loader.indices_of(epoch, iteration))[0])
        with paddle.no_grad():
            for parameter, kept in zip(self._trained, self._kept):
                paddle.assign(kept, parameter)
        self.model.train()
        seed_step(self.seed, epoch, iteration)
        with self.precision.training():
            origin = first_non_finite(self.model, images)
        more = f" and {len(files) - FILES_SHOWN} more (the log names them)" if len(files) > FILES_SHOWN else ""
        raise UserError(
            f"{problem} in {self._place(epoch, iteration)}; {origin}; images {', '.join(files[:FILES_SHOWN])}{more}; "
            f"{ADVICE}",
            code="training.not-finite",
        )


def _tensors(network: nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """Weights and statistics by name."""
    return [(name, tensor) for name, tensor in network.state_dict().items() if tensor.is_floating_point()]


@paddle.no_grad()
def first_non_finite(model: nn.Layer, images: paddle.Tensor) -> str:
    """Say in words where NaN or infinity appears first when ``images`` (N, C, H, W) pass through ``model``."""
    finite = paddle.isfinite(images).all(axis=[1, 2, 3]).numpy()
    if not finite.all():
        return f"the images themselves are not finite, number {int(np.argmin(finite)) + 1} of the batch first"
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

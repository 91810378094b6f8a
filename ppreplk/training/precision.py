"""Mixed precision: which parts compute in half precision, and how the loss is scaled for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..config import AMPConfig

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 25  # a dynamic scale is 2**25 times smaller then
LOSS_SCALE = ("scale", "incr_count", "decr_count")  # what changes in Paddle's scaler; the rest is configuration


class Precision:
    """Float32, or the mixed precision of the section ``AMP``.

    On a CPU, Paddle computes in float32 whatever it is told, so the section has no effect there.

    Args:
        config: the section, or None for float32.
        device: ``Global.device``.
    """

    def __init__(self, config: AMPConfig | None, device: str):
        wanted = config is not None and config.use_amp
        self.config = config if wanted and device != "cpu" else None
        self.scaler: paddle.amp.GradScaler | None = None
        self.skipped_steps = 0  # whose gradients overflowed
        self._skipped_in_a_row = 0
        self.scale_is_dynamic = config is not None and config.use_dynamic_loss_scaling
        if wanted and device == "cpu":
            logger.info("AMP has no effect here: on a CPU Paddle computes in float32")
        if self.config is not None and self.config.dtype == "float16":
            self.scaler = paddle.amp.GradScaler(
                init_loss_scaling=self.config.scale_loss,
                use_dynamic_loss_scaling=self.config.use_dynamic_loss_scaling,
            )

    def decorate(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> None:
        """At level O2, turn the weights of ``model`` to half precision in place, with float32 master weights."""
        if self.config is not None and self.config.level == "O2":
            paddle.amp.decorate(model, optimizer, level="O2", dtype=self.config.dtype, save_dtype="float32")

    def training(self) -> AbstractContextManager:
        """Make the context of a forward pass in training."""
        if self.config is None:
            return nullcontext()
        return paddle.amp.auto_cast(
            level=self.config.level, dtype=self.config.dtype, use_promote=self.config.use_promote
        )

    @property
    def evaluates_in_half(self) -> bool:
        """Whether evaluation is in half precision: at level O2, or with ``use_fp16_test``."""
        return self.config is not None and (self.config.use_fp16_test or self.config.level == "O2")

    def evaluation(self) -> AbstractContextManager:
        """Make the context of a forward pass in evaluation."""
        return self.training() if self.evaluates_in_half else nullcontext()

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of ``loss``, scaled where a scaler is used."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Update the weights once. A scaler skips the update where a gradient has overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            skipped = bool(self.scaler._cache_found_inf)  # Paddle has read it to decide; there is no public name
            self.scaler.update()
            self.skipped_steps += skipped
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0

    def exhausted(self) -> str | None:
        """Why a scaler that has just skipped an update will not recover; None while it may."""
        if self._skipped_in_a_row == 0:
            return None
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            return f"the gradients have overflowed in {self._skipped_in_a_row} steps in a row"
        scale = self.loss_scale().get("scale", 1.0)
        return f"the gradients overflow even with a loss scale of {2 * scale:g}" if scale < 1.0 else None

    def numbers(self) -> dict[str, float]:
        """What a log line says about the scaler; empty without one."""
        if self.scaler is None:
            return {}
        scale = {"loss_scale": self.loss_scale()["scale"]} if self.scale_is_dynamic else {}
        return {**scale, "skipped_steps": self.skipped_steps}

    def loss_scale(self) -> dict[str, float]:
        """What a resumed training needs to know of the scaler; of the scale itself only where it changes."""
        if self.scaler is None:
            return {}
        skipped: dict[str, float] = {"skipped_steps": self.skipped_steps, "skipped_in_a_row": self._skipped_in_a_row}
        if not self.scale_is_dynamic:
            return skipped
        state: dict[str, Any] = dict(self.scaler.state_dict())
        return {**{name: np.asarray(state[name]).item() for name in LOSS_SCALE if name in state}, **skipped}

    def restore_loss_scale(self, saved: Mapping[str, float]) -> None:
        """Go on with the result of :meth:`loss_scale`; a fixed scale stays that of the configuration."""
        self.skipped_steps = int(saved.get("skipped_steps", 0))
        self._skipped_in_a_row = int(saved.get("skipped_in_a_row", 0))
        if self.scaler is not None and self.scale_is_dynamic and "scale" in saved:
            changed = {name: saved[name] for name in LOSS_SCALE if name in saved}
            state: Any = {**self.scaler.state_dict(), **changed, "scale": np.asarray([saved["scale"]], np.float32)}
            self.scaler.load_state_dict(state)
            logger.info("the loss scale goes on from %g", saved["scale"])

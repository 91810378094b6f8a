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

    def evaluation(self) -> AbstractContextManager:
        """Make the context of a forward pass in evaluation: half precision at level O2 or with ``use_fp16_test``."""
        if self.config is not None and (self.config.use_fp16_test or self.config.level == "O2"):
            return self.training()
        return nullcontext()

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of ``loss``, scaled where a scaler is used."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Update the weights once. A scaler skips the update where a gradient has overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def loss_scale(self) -> dict[str, float]:
        """What a resumed training needs to know of a dynamic loss scale; empty where the scale does not change."""
        if self.scaler is None or not self.scale_is_dynamic:
            return {}
        state: dict[str, Any] = dict(self.scaler.state_dict())
        return {name: np.asarray(state[name]).item() for name in LOSS_SCALE if name in state}

    def restore_loss_scale(self, saved: Mapping[str, float]) -> None:
        """Go on with the result of :meth:`loss_scale`; a fixed scale stays that of the configuration."""
        if self.scaler is not None and self.scale_is_dynamic and saved:
            state: Any = {**self.scaler.state_dict(), **saved, "scale": np.asarray([saved["scale"]], np.float32)}
            self.scaler.load_state_dict(state)
            logger.info("the loss scale goes on from %g", saved["scale"])

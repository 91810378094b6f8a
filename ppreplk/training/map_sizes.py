"""What the size of the images means for a network's feature maps, found out with the first batch and said once."""

from __future__ import annotations

import logging
import re
from typing import Any

import paddle
from paddle import nn

from ..data import Loader
from ..nn.conv import Conv2D, DepthwiseConv2D
from ..nn.norm import BATCH_NORMS
from ..nn.training_layout import TrainingNetwork
from ..utils.distributed import processes, rank
from ..utils.errors import UserError

logger = logging.getLogger(__name__)


class MapSizes:
    """Looks at the feature maps of the first batch that passes through a network in training, and then no more.

    Says in one line which kernels are larger than their maps, and refuses a batch normalization that gets one value
    for each channel: the variance of one value is 0, and whatever the image was, the output would be the same.

    Args:
        model: (N, C, H, W) -> (N, K).
        form: what computes it in training: the network itself, or one that does not call its layers.
        loader: of its training images.
    """

    def __init__(self, model: nn.Layer, form: nn.Layer, loader: Loader):
        self.form, self.loader = form, loader
        self._kernels: dict[tuple[int, int, int], list[str]] = {}  # {(extent, H, W): places}
        self._norms: list[str] = []  # on maps of one pixel
        self._hooks = [form.register_forward_post_hook(self._done)]
        self._names = {id(layer): name for name, layer in model.named_sublayers()}
        if isinstance(form, TrainingNetwork):
            form.look_at_maps(self._look)
            return
        for layer in model.sublayers():
            if isinstance(layer, (Conv2D, DepthwiseConv2D, *BATCH_NORMS)):
                self._hooks.append(layer.register_forward_pre_hook(self._look_before))

    def _look_before(self, layer: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
        size = inputs[0].shape[2:] or [1, 1]
        if len(size) == 2:
            self._look(layer, *size)

    def _look(self, layer: nn.Layer, height: int, width: int) -> None:
        name = self._names[id(layer)]
        if isinstance(layer, (Conv2D, DepthwiseConv2D)):
            extent = layer.dilation * (layer.kernel_size - 1) + 1
            if extent > min(height, width):
                places = self._kernels.setdefault((extent, height, width), [])
                places.append(re.match(r"[^.]+(\.\d+)?", name)[0])  # type: ignore[index]
        elif isinstance(layer, BATCH_NORMS) and not (isinstance(layer, nn.SyncBatchNorm) and processes() > 1):
            if (height, width) == (1, 1):
                self._norms.append(name)

    def _done(self, model: nn.Layer, inputs: Any, output: Any) -> None:
        if not model.training:
            return
        for hook in self._hooks:
            hook.remove()
        if isinstance(self.form, TrainingNetwork):
            self.form.look_at_maps(None)
        if self._norms and min(len(batch) for batch in self.loader.batch_sampler) == 1:
            raise UserError(
                f"{self._norms[0]} normalizes maps of one pixel, and a batch has one image: one value has no "
                "variance; use larger images or batches; for a last batch of one image, set drop_last to True",
                code="training.one-value",
                where="DataLoader.Train.sampler.batch_size",
            )
        if self._kernels and rank() == 0:
            self._say()

    def _say(self) -> None:
        found = [
            f"{extent}x{extent} on {height}x{width} ({', '.join(dict.fromkeys(places))})"
            for (extent, height, width), places in self._kernels.items()
        ]
        line = f"kernels larger than their maps: {'; '.join(found)}; "
        if any(extent > 2 * min(height, width) - 1 for extent, height, width in self._kernels):
            logger.warning("%skernels of more than twice the map have a border that never meets it", line)
        else:
            logger.info("%sall their weights are used", line)

"""What PaddleSeg's configurations name by ``type``: our backbones, and UperNet as MMSegmentation has it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn

from ...checkpoints.compare import compare
from ...checkpoints.files import find_checkpoint, read_weights
from ...models.registry import architecture_of, shapes_of
from ...utils.errors import UserError
from ..suites import Suite, backbone_names, build_backbone

SUITE = Suite(
    "PaddleSeg",
    package="paddleseg",
    variable="PADDLESEG",
    wheel="paddleseg==2.8.0",
    tools={command: f"tools/{command}.py" for command in ("train", "val", "predict", "export")},
)
MODEL = "UPerNetRepLKNet"
AUXILIARY_DROPOUT = 0.1
HEAD_STD = 0.01  # of the initial weights of a last convolution, as in MMSegmentation


def add_components() -> list[str]:
    """Add our backbones and the model to PaddleSeg's registries. A second call changes nothing.

    Returns:
        Their names.

    Raises:
        UserError: there is no PaddleSeg, or none that can be imported.
    """
    SUITE.require()
    from paddleseg.cvlibs import manager

    for name in backbone_names():
        if name not in manager.BACKBONES.components_dict:
            manager.BACKBONES.add_component(_entry_point(name))
    if MODEL not in manager.MODELS.components_dict:
        manager.MODELS.add_component(model_class())
    return [*backbone_names(), MODEL]


def _entry_point(name: str) -> Callable[..., nn.Layer]:
    def build(pretrained: Optional[str] = None, **arguments: Any) -> nn.Layer:
        """The arguments are those of the section ``model.backbone``."""
        return build_backbone(name, arguments, pretrained)

    build.__name__ = name
    return build


@functools.cache
def model_class() -> type:
    """The class ``UPerNetRepLKNet``.

    It is PaddleSeg's ``UPerNetViTAdapter``, which is UperNet with an auxiliary FCN head as MMSegmentation has them, and
    what the official recipes have beside: dropout in the auxiliary head, and its initial weights. Names of the
    parameters are the same. (``UPerNet`` of PaddleSeg differs from MMSegmentation's in many places.)
    """
    from paddleseg.models.upernet_vit_adapter import UPerNetViTAdapter

    class UPerNetRepLKNet(UPerNetViTAdapter):
        """UperNet with an auxiliary FCN head on the third of the features.

        (N, C, H, W) -> [logits (N, num_classes, H, W)], in training with those of the auxiliary head behind them.

        Args:
            aux_dropout_ratio: share of the auxiliary head's channels that are zeroed in training.
            others: those of ``UPerNetViTAdapter``.
        """

        def __init__(
            self,
            num_classes: int,
            backbone: nn.Layer,
            backbone_indices: Sequence[int] = (0, 1, 2, 3),
            channels: int = 512,
            pool_scales: Sequence[int] = (1, 2, 3, 6),
            dropout_ratio: float = 0.1,
            aux_loss: bool = True,
            aux_channels: int = 256,
            aux_dropout_ratio: float = AUXILIARY_DROPOUT,
            align_corners: bool = False,
            pretrained: Optional[str] = None,
        ):
            widths = list(getattr(backbone, "feat_channels", []))
            if not all(0 <= index < len(widths) for index in backbone_indices) or len(backbone_indices) < 3:
                raise UserError(
                    f"expected at least three of the {len(widths)} features of the backbone, got {backbone_indices}",
                    code="plugins.bad-argument",
                    where="model.backbone_indices",
                )
            super().__init__(
                num_classes=num_classes,
                backbone=backbone,
                backbone_indices=list(backbone_indices),
                channels=channels,
                pool_scales=list(pool_scales),
                dropout_ratio=dropout_ratio,
                aux_loss=aux_loss,
                aux_channels=aux_channels,
                align_corners=align_corners,
                pretrained=None,
            )
            _reset(self.head.conv_seg)
            if aux_loss:
                self.head.aux_conv_seg = DroppedConv2D(aux_channels, num_classes, aux_dropout_ratio)
                _reset(self.head.aux_conv_seg)
            self.pretrained = pretrained
            self.init_weight()

    return UPerNetRepLKNet


class DroppedConv2D(nn.Conv2D):
    """A 1x1 convolution of channels some of which are zeroed in training. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, rate: float):
        super().__init__(in_channels, out_channels, kernel_size=1)
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return super().forward(nn.functional.dropout2d(x, self.rate, training=self.training))


def _reset(conv: nn.Conv2D) -> None:
    nn.initializer.Normal(0.0, HEAD_STD)(conv.weight)
    nn.initializer.Constant(0.0)(conv.bias)


def is_ours(model: nn.Layer) -> bool:
    """Whether a network of PaddleSeg stands on a backbone of ours."""
    return architecture_of(getattr(model, "backbone", None)) is not None


def load_network(model: nn.Layer, path: str) -> None:
    """Put the weights of a whole network, as PaddleSeg names them, into it: all of them, and nothing else.

    PaddleSeg takes what fits and only warns of the rest, so that a network half of which is random is evaluated.

    Raises:
        UserError: no such file, or names or shapes differ. The network is unchanged then.
    """
    state = read_weights(find_checkpoint(path)).state
    found = compare(shapes_of(model), state)
    if not found.is_match:
        raise UserError(
            f"does not hold the weights of this {type(model).__name__}: {found.matched} matched, "
            f"{_count(found.missing)} missing, {_count(found.unexpected)} left over, "
            f"{_count(found.misshaped)} mis-shaped{_hint(state)}",
            code="plugins.other-network",
            where=path,
        )
    for name, tensor in model.state_dict().items():
        array = np.ascontiguousarray(state[name]).reshape(tensor.shape)
        tensor.set_value(paddle.to_tensor(array).astype(tensor.dtype))


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} ({names[0]})" if names else "0"


def _hint(state: Mapping[str, np.ndarray]) -> str:
    if any(name.startswith("decode_head.") for name in state):
        return "; these are MMSegmentation's names: convert it with ppreplk convert FILE OUT --for paddleseg"
    if not any(name.startswith("backbone.") for name in state):
        return "; weights of a backbone alone belong to model.backbone.pretrained"
    return ""

"""Our networks as PaddleDetection's backbones, under their names.

Importing this module registers them, so :func:`.register` alone imports it: PaddleDetection must be there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Optional, cast

import paddle
from paddle import nn
from ppdet.core.workspace import register, serializable
from ppdet.modeling.shape_spec import ShapeSpec

from ...models.registry import architectures, find_model
from ..suites import backbone_names, build_backbone

FIRST_STRIDE = 4
OF_CLASSIFIERS = ("self", "class_num", "in_channels")


class _ReadsInputs(nn.Layer):
    """What PaddleDetection expects of a backbone, in front of a network of ours."""

    out_indices: list[int]
    feat_channels: list[int]
    forward_image: Callable[[paddle.Tensor], list[paddle.Tensor]]  # of the network; to_static does not know super()

    def forward(self, inputs: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
        """``inputs["image"]`` (N, 3, H, W) -> a feature map of each stage in ``out_indices``."""
        return self.forward_image(inputs["image"])

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Width and stride of the feature maps, for the neck."""
        return [
            ShapeSpec(channels=channels, stride=FIRST_STRIDE * 2**index)
            for index, channels in zip(self.out_indices, self.feat_channels)
        ]


def _backbone_class(name: str) -> type:
    """The class that makes the backbone ``name``, with its arguments in the signature, for PaddleDetection's schema."""
    whole = {architecture.name: architecture for architecture in architectures()}
    architecture, variant = (whole[name], {}) if name in whole else find_model(name)

    def __init__(self: Any, pretrained: Optional[str] = None, **arguments: Any) -> None:
        built = build_backbone(name, arguments, pretrained, where=name)
        nn.Layer.__init__(self)
        self.__dict__.update(built.__dict__)  # this is that network, which has been checked and has its weights

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter("self", positional),
        inspect.Parameter("pretrained", positional, default=None),
    ]
    for parameter in inspect.signature(architecture.network).parameters.values():
        if parameter.name not in OF_CLASSIFIERS:
            default = variant.get(parameter.name, parameter.default)
            default = None if default is inspect.Parameter.empty else default
            parameters.append(inspect.Parameter(parameter.name, positional, default=default))
    parameters.append(inspect.Parameter("unknown", inspect.Parameter.VAR_KEYWORD))  # refused in one line, by name
    __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    text = f"{name}: ``pretrained`` names a file with weights, the rest are arguments of the network."
    network = cast(Any, architecture.network)
    members = {"__init__": __init__, "forward_image": network.forward, "__doc__": text, "__module__": __name__}
    return type(name, (_ReadsInputs, network), members)


for _name in backbone_names():
    globals()[_name] = serializable(register(_backbone_class(_name)))

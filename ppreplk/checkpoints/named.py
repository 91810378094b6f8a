"""Networks with weights that are asked for by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paddle import nn

from ..models import registry
from .apply import load_weights
from .backbone_weights import load_backbone
from .convert import load_checkpoint


def build_model(name: str, pretrained: bool | str | os.PathLike[str] = False, **kwargs: Any) -> nn.Layer:
    """Build a network by name, with initial weights or with published ones.

    Args:
        name: one of :func:`ppreplk.list_models`.
        pretrained: the name of published weights (``ppreplk weights list``), True for the usual ones, or a file of
            :func:`ppreplk.weights.load_checkpoint`. Published weights are downloaded unless they are there. A head for
            another number of classes is a new one, as in fine-tuning; a backbone has none.
        kwargs: arguments of its architecture, such as ``class_num``.

    Raises:
        UserError: unknown names, arguments that do not make a network, a download that fails, or weights that do not
            fit.

    >>> import ppreplk
    >>> backbone = ppreplk.build_model("RepLKNet13T", out_indices=[0, 1, 2, 3])
    >>> backbone.feat_channels
    [16, 32, 64, 128]
    """
    network = registry.build_model(name, **kwargs)
    if pretrained:
        load_pretrained_into(network, name, pretrained)
    return network


def load_pretrained_into(network: nn.Layer, name: str, pretrained: bool | str | os.PathLike[str]) -> Path:
    """Put published weights, or those of a file, into a network of the model ``name``; the file.

    Raises:
        UserError: as :func:`build_model`.
    """
    from .weights_folder import find_pretrained  # the code of downloads, for those alone who ask for one

    path = find_pretrained(name, pretrained)
    architecture = registry.architecture_of(network)
    is_classifier = architecture is not None and architecture.head[0] in network.state_dict()
    if is_classifier or architecture is None:
        load_weights(network, load_checkpoint(path), str(path), may_replace_head=True)
    else:
        load_backbone(network, str(path))
    return path

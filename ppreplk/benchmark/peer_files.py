"""Files from which other frameworks build our networks and layers, see :mod:`ppreplk.benchmark.peers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..deploy.onnx_file import INPUT_NAME, OnnxWriter
from ..nn import to_numpy
from ..nn.graph import ACTIVATION, ADD, CONV, DROP_PATH, INPUT, LINEAR, NORM, POOL, Graph, Node

ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6", "gelu": "GELU"}


def record(graph: Graph, path: Path) -> None:
    """Write down a network as layers of PyTorch, with its weights, in whatever form it is in: an ``.npz`` file."""
    steps, arrays = [], {}
    for number, node in enumerate(graph.nodes):
        kind, arguments, state = _torch_layer(node)
        steps.append({"kind": kind, "arguments": arguments, "inputs": node.inputs, "state": list(state)})
        arrays.update({f"{number}.{name}": np.ascontiguousarray(array) for name, array in state.items()})
    np.savez(path, steps=json.dumps(steps), **arrays)


def _torch_layer(node: Node) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Its name in ``torch.nn``, or ours of what is none; its arguments; its weights."""
    layer = node.layer
    if node.op == CONV:
        arguments = {name: getattr(layer, name) for name in ("in_channels", "out_channels", "kernel_size", "stride")}
        arguments |= {"padding": layer.dilation * (layer.kernel_size // 2), "dilation": layer.dilation}
        arguments |= {"groups": layer.groups, "bias": layer.bias is not None}
        return "Conv2d", arguments, _arrays(weight=layer.weight, bias=layer.bias)
    if node.op == NORM:
        state = _arrays(weight=layer.weight, bias=layer.bias, running_mean=layer._mean, running_var=layer._variance)
        arguments = {"num_features": layer.weight.shape[0], "eps": layer._epsilon}
        return "BatchNorm2d", arguments, {**state, "num_batches_tracked": np.zeros((), np.int64)}
    if node.op == LINEAR:
        inputs, outputs = layer.weight.shape
        state = _arrays(weight=layer.weight, bias=layer.bias)
        return "Linear", {"in_features": inputs, "out_features": outputs}, {**state, "weight": state["weight"].T}
    if node.op == ACTIVATION:
        return ACTIVATIONS[str(node.kind)], {}, {}
    if node.op == DROP_PATH:
        return DROP_PATH, {"rate": layer.rate}, {}
    assert node.op in (INPUT, ADD, POOL), f"no twin for {node.op}"
    return ("Identity" if node.op == INPUT else node.op), {}, {}


def _arrays(**tensors: Any) -> dict[str, np.ndarray]:
    return {name: to_numpy(tensor) for name, tensor in tensors.items() if tensor is not None}


def onnx_conv(x: np.ndarray, weight: np.ndarray) -> bytes:
    """An ONNX file of one depthwise layer."""
    writer = OnnxWriter(x.shape)
    return writer.serialized(writer.conv(INPUT_NAME, weight, None, groups=len(weight)), x.shape)

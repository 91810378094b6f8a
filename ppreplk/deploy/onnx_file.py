"""ONNX files of folded classifiers, written node by node from their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from ..nn import to_numpy
from ..nn.graph import ACTIVATION, ADD, CONV, INPUT, LINEAR, POOL, Graph
from ..utils.errors import UserError

OPSET = 20  # the first with Gelu
IR_VERSION = 9
BATCH = "batch"  # the name of the free dimension
INPUT_NAME = "images"


class OnnxWriter:
    """Nodes and weights of an ONNX graph of convolutions, in the order of execution.

    Args:
        input_shape: (N, C, H, W); a string names a free dimension.
    """

    def __init__(self, input_shape: Sequence[Union[int, str]]):
        from onnx import TensorProto, helper, numpy_helper

        self.helper, self.to_tensor, self.float32 = helper, numpy_helper.from_array, TensorProto.FLOAT
        self.input_shape = tuple(input_shape)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(self.to_tensor(np.ascontiguousarray(value), name))
        return name

    def conv(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> str:
        """A convolution with padding ``dilation * (K // 2)``."""
        operands = [self.weight(value) for value in (weight, bias) if value is not None]
        pads = [dilation * (weight.shape[-1] // 2)] * 4
        return self.node("Conv", x, *operands, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads, group=groups)

    def activation(self, x: str, kind: str) -> str:
        """``relu``, ``relu6`` or ``gelu``."""
        if kind == "relu6":
            return self.node("Clip", x, *(self.weight(np.asarray(bound, np.float32)) for bound in (0, 6)))
        return self.node({"relu": "Relu", "gelu": "Gelu"}[kind], x)

    def serialized(self, output: str) -> bytes:
        """The content of the file."""
        helper = self.helper
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT_NAME, self.float32, self.input_shape)],
            [helper.make_tensor_value_info(output, self.float32, None)],
            self.weights,
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def onnx_network(graph: Graph, input_shape: Sequence[Union[int, str]]) -> bytes:
    """An ONNX file of a folded classifier.

    Args:
        graph: see :func:`ppreplk.models.graph_of`.
        input_shape: (N, C, H, W); a string names a free dimension.

    Returns:
        The content of the file. Its input is called ``images``.

    Raises:
        UserError: the network is not folded.
    """
    writer = OnnxWriter(input_shape)
    values: dict[int, str] = {}
    for number, node in enumerate(graph.nodes):
        inputs = [values[x] for x in node.inputs]
        if node.op == INPUT:
            values[number] = INPUT_NAME
        elif node.op == CONV:
            layer = node.layer
            bias = None if layer.bias is None else to_numpy(layer.bias)
            values[number] = writer.conv(
                inputs[0], to_numpy(layer.weight), bias, layer.stride, layer.dilation, layer.groups
            )
        elif node.op == ACTIVATION:
            values[number] = writer.activation(inputs[0], str(node.kind))
        elif node.op == ADD:
            values[number] = writer.node("Add", *inputs)
        elif node.op == POOL:
            values[number] = writer.node("Flatten", writer.node("GlobalAveragePool", *inputs))
        elif node.op == LINEAR:
            head = [writer.weight(to_numpy(value)) for value in (node.layer.weight, node.layer.bias)]
            values[number] = writer.node("Gemm", inputs[0], *head)
        else:
            raise UserError(
                f"ONNX files are written of folded networks, this one has {node.op}", code="deploy.not-folded"
            )
    return writer.serialized(values[len(graph.nodes) - 1])

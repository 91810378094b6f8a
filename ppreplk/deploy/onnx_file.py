"""ONNX files of folded classifiers, written node by node from their graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from ..nn import to_numpy
from ..nn.graph import ACTIVATION, ADD, CONV, INPUT, LINEAR, POOL, Graph
from ..utils.errors import UserError
from ..utils.version import __version__

OPSET = 20
OPSETS = range(13, 22)  # from the first whose Softmax is as ours, to the last that was tried
GELU_OPSET = 20  # the first with Gelu
BATCH, HEIGHT, WIDTH = "batch", "height", "width"  # names of free dimensions
INPUT_NAME = "images"
LOGITS, PROBABILITIES = "logits", "probabilities"  # names of the output


class OnnxWriter:
    """Nodes and weights of an ONNX graph of convolutions, in the order of execution.

    Args:
        input_shape: (N, C, H, W); a string names a free dimension.
        opset: version of the operators, one of ``OPSETS``. Below ``GELU_OPSET``, a GELU is written with Erf.
    """

    def __init__(self, input_shape: Sequence[Union[int, str]], opset: int = OPSET):
        from onnx import TensorProto, helper, numpy_helper

        self.helper, self.to_tensor, self.float32 = helper, numpy_helper.from_array, TensorProto.FLOAT
        self.input_shape = tuple(input_shape)
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its output, which is ``name`` if that is given."""
        name = name or f"t{len(self.nodes)}"
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
        if kind == "gelu" and self.opset < GELU_OPSET:
            return self._gelu(x)
        return self.node({"relu": "Relu", "gelu": "Gelu"}[kind], x)

    def _gelu(self, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt(2)))."""
        one, half, scale = (self.weight(np.asarray(v, np.float32)) for v in (1.0, 0.5, 1.0 / math.sqrt(2.0)))
        share = self.node("Add", self.node("Erf", self.node("Mul", x, scale)), one)
        return self.node("Mul", self.node("Mul", x, half), share)

    def serialized(self, output: str, output_shape: Sequence[Union[int, str]]) -> bytes:
        """The content of the file, after ONNX's own full check.

        Args:
            output: the name of the value to return.
            output_shape: its shape, as ``input_shape``.
        """
        from onnx import checker

        helper = self.helper
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT_NAME, self.float32, self.input_shape)],
            [helper.make_tensor_value_info(output, self.float32, output_shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="ppreplk",
            producer_version=__version__,
        )
        checker.check_model(model, full_check=True)
        return model.SerializeToString()


def onnx_network(
    graph: Graph, input_shape: Sequence[Union[int, str]], opset: int = OPSET, softmax: bool = False
) -> bytes:
    """An ONNX file of a folded classifier.

    Args:
        graph: see :func:`ppreplk.models.graph_of`.
        input_shape: (N, C, H, W); a string names a free dimension.
        opset: see :class:`OnnxWriter`.
        softmax: whether it returns probabilities instead of logits.

    Returns:
        The content of the file. Its input is called ``images``, its output ``logits`` or ``probabilities``, of shape
        (N, class_num).

    Raises:
        UserError: the network is not folded.
    """
    writer = OnnxWriter(input_shape, opset)
    values: dict[int, str] = {}
    classes: Union[int, str] = "classes"
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
            classes = int(node.layer.weight.shape[1])
            name = LOGITS if number == len(graph.nodes) - 1 else None
            values[number] = writer.node("Gemm", inputs[0], *head, name=name)
        else:
            raise UserError(
                f"ONNX files are written of folded networks, this one has {node.op}", code="deploy.not-folded"
            )
    output = values[len(graph.nodes) - 1]
    if softmax:
        output = writer.node("Softmax", output, name=PROBABILITIES, axis=1)
    return writer.serialized(output, (input_shape[0], classes))

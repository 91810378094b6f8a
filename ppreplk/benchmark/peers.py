"""Our networks and layers in other frameworks, for timing only, where those are installed.

Each ``..._conv`` gives a function without arguments that runs one depthwise layer, each ``..._network`` and
``..._session`` one that runs a whole network; all return an array. They raise ImportError where the framework is
missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.inference
from paddle import nn
from paddle.base import core

from ..models.replknet.network import ConvFFN, RepLKBlock, RepLKNet
from ..nn.conv import ConvBN, DenseConv2D, DepthwiseConv2D, DropPath, ReparamDepthwiseConv, to_numpy

Call = Callable[[], np.ndarray]
BATCH = "batch"  # the unknown dimension


class Session(NamedTuple):
    """A network whose framework decides whether it computes in bfloat16 where it was asked to."""

    run: Call
    bfloat16: bool

    def __call__(self) -> np.ndarray:
        return self.run()


# PyTorch


def to_torch(model: nn.Layer) -> Any:
    """``model`` as a ``torch.nn.Module`` with the same weights, in whatever form it is in."""
    import torch

    def convert(layer: nn.Layer) -> Any:
        if isinstance(layer, (DenseConv2D, DepthwiseConv2D)):
            return _torch_conv(torch, layer)
        if isinstance(layer, nn.BatchNorm2D):
            norm = torch.nn.BatchNorm2d(layer.weight.shape[0])
            values = {"weight": layer.weight, "bias": layer.bias}
            values |= {"running_mean": layer._mean, "running_var": layer._variance}
            state = {name: torch.from_numpy(to_numpy(value)) for name, value in values.items()}
            norm.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})
            return norm
        if isinstance(layer, nn.Linear):
            linear = torch.nn.Linear(*layer.weight.shape)
            _set(torch, linear, to_numpy(layer.weight).T, layer.bias)
            return linear
        if isinstance(layer, ConvBN):
            parts = [layer.conv, *([] if layer.is_fused else [layer.bn]), layer.nonlinear]
            return torch.nn.Sequential(*map(convert, parts))
        if isinstance(layer, ReparamDepthwiseConv):
            names = ["lkb_reparam"] if layer.is_repped else ["lkb_origin", "small_conv"]
            return _sum(torch, [convert(getattr(layer, name)) for name in names if hasattr(layer, name)])
        if isinstance(layer, RepLKBlock):
            parts = [layer.prelkb_bn, layer.pw1, layer.large_kernel, layer.lk_nonlinear, layer.pw2, layer.drop_path]
            return _residual(torch, torch.nn.Sequential(*map(convert, parts)))
        if isinstance(layer, ConvFFN):
            parts = [layer.preffn_bn, layer.pw1, layer.nonlinear, layer.pw2, layer.drop_path]
            return _residual(torch, torch.nn.Sequential(*map(convert, parts)))
        if isinstance(layer, DropPath):
            return _drop_path(torch, layer.rate)
        if isinstance(layer, RepLKNet):
            head = [convert(layer.norm), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), convert(layer.head)]
            return torch.nn.Sequential(*map(convert, layer.in_order()), *head)
        return {nn.ReLU: torch.nn.ReLU, nn.GELU: torch.nn.GELU, nn.Identity: torch.nn.Identity}[type(layer)]()

    return convert(model)


def _torch_conv(torch: Any, layer: nn.Layer) -> Any:
    own = layer.hyperparameters
    groups = layer.groups
    conv = torch.nn.Conv2d(
        own.get("in_channels", groups),
        own.get("out_channels", groups),
        own["kernel_size"],
        own["stride"],
        own["kernel_size"] // 2,
        groups=groups,
        bias=layer.bias is not None,
    )
    _set(torch, conv, to_numpy(layer.weight), layer.bias)
    return conv


def _set(torch: Any, module: Any, weight: np.ndarray, bias: Any) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if bias is not None:
            module.bias.copy_(torch.from_numpy(to_numpy(bias)))


def _sum(torch: Any, branches: list) -> Any:
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = torch.nn.ModuleList(branches)

        def forward(self, x):
            return sum(branch(x) for branch in self.branches)

    return Sum()


def _residual(torch: Any, block: Any) -> Any:
    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return x + self.block(x)

    return Residual()


def _drop_path(torch: Any, rate: float) -> Any:
    class TorchDropPath(torch.nn.Module):
        def forward(self, x):
            if not self.training or rate == 0.0:
                return x
            return x * (torch.rand(x.shape[0], 1, 1, 1) >= rate).to(x.dtype) / (1.0 - rate)

    return TorchDropPath()


def torch_conv(x: np.ndarray, weight: np.ndarray, threads: int, channels_last: bool) -> tuple[Call, Callable]:
    """Forward, and backward of both operands, which returns nothing."""
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.from_numpy(x).to(memory_format=layout)
    kernel = torch.from_numpy(weight).to(memory_format=layout)

    def convolve(image: Any, kernel: Any) -> Any:
        return torch.nn.functional.conv2d(image, kernel, padding=weight.shape[-1] // 2, groups=len(weight))

    @torch.no_grad()
    def forward() -> np.ndarray:
        return convolve(image, kernel).numpy()

    leaves = [image.clone().requires_grad_(), kernel.clone().requires_grad_()]
    y = convolve(*leaves)
    gradient = torch.ones_like(y)

    def backward() -> None:
        torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    return forward, backward


def torch_network(model: nn.Layer, images: np.ndarray, threads: int, channels_last: bool) -> Call:
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = to_torch(model).eval().to(memory_format=layout)
    tensor = torch.from_numpy(images).to(memory_format=layout)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(tensor).numpy()

    return run


def torch_training_step(
    model: nn.Layer, images: np.ndarray, labels: np.ndarray, threads: int, channels_last: bool
) -> Callable[[], None]:
    """Forward, backward, AdamW."""
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = to_torch(model).train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.05)
    tensor, target = torch.from_numpy(images).to(memory_format=layout), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(tensor), target).backward()
        optimizer.step()

    return step


# ONNX, for ONNX Runtime and OpenVINO


class OnnxGraph:
    """Nodes and weights of an ONNX graph of convolutions, written down in order. Opset 20 has GELU."""

    def __init__(self, input_shape: tuple[int | str, ...]):
        from onnx import TensorProto, helper, numpy_helper

        self.helper, self.to_tensor, self.kind = helper, numpy_helper.from_array, TensorProto.FLOAT
        self.input_shape = input_shape
        self.nodes: list = []
        self.weights: list = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self.to_tensor(np.ascontiguousarray(value), name))
        return name

    def conv(self, x: str, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, groups: int = 1) -> str:
        operands = [self.weight(value) for value in (weight, bias) if value is not None]
        pads = [weight.shape[-1] // 2] * 4
        return self.node("Conv", x, *operands, strides=[stride] * 2, pads=pads, group=groups)

    def serialized(self, output: str) -> bytes:
        helper = self.helper
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("images", self.kind, self.input_shape)],
            [helper.make_tensor_value_info(output, self.kind, None)],
            self.weights,
        )
        opset = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def onnx_conv(x: np.ndarray, weight: np.ndarray) -> bytes:
    graph = OnnxGraph(x.shape)
    return graph.serialized(graph.conv("images", weight, None, groups=len(weight)))


def onnx_network(folded: RepLKNet, size: int) -> bytes:
    """A folded classifier, for any batch: :func:`ppreplk.fold` leaves convolutions, ReLU, GELU and sums."""
    graph = OnnxGraph((BATCH, 3, size, size))

    def conv(x: str, layer: nn.Layer) -> str:
        stride = layer.hyperparameters["stride"]
        return graph.conv(x, to_numpy(layer.weight), to_numpy(layer.bias), stride, layer.groups)

    def conv_bn(x: str, layer: ConvBN) -> str:
        y = conv(x, layer.conv)
        return graph.node("Relu", y) if isinstance(layer.nonlinear, nn.ReLU) else y

    x = "images"
    for layer in folded.in_order():
        if isinstance(layer, RepLKBlock):
            y = conv(conv_bn(x, layer.pw1), layer.large_kernel.lkb_reparam)
            x = graph.node("Add", x, conv_bn(graph.node("Relu", y), layer.pw2))
        elif isinstance(layer, ConvFFN):
            x = graph.node("Add", x, conv_bn(graph.node("Gelu", conv_bn(x, layer.pw1)), layer.pw2))
        else:
            x = conv_bn(x, layer)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    head = [graph.weight(to_numpy(value)) for value in (folded.head.weight, folded.head.bias)]
    return graph.serialized(graph.node("Gemm", x, *head))


def onnxruntime_session(model: bytes | Path, images: np.ndarray, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name(BATCH, len(images))
    model = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})[0]


def openvino_session(model: bytes | Path, images: np.ndarray, threads: int, precision: str = "f32") -> Session:
    import openvino

    runtime = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = runtime.read_model(model)
    network.reshape(list(images.shape))
    compiled = runtime.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    computes = compiled.get_property("INFERENCE_PRECISION_HINT")  # no longer a hint
    return Session(lambda: request.infer({0: images})[0], computes == openvino.Type.bf16)


# Paddle's own bfloat16, which no program of ours uses


def paddle_bfloat16_session(program: Path, weights: Path, images: np.ndarray, threads: int) -> Session:
    """A program of Paddle's operators, which Paddle converts to bfloat16 as it loads it.

    It needs AVX-512 for that, and leaves the program in float32 without a word where there is none.
    """
    config = paddle.inference.Config(str(program), str(weights))
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()
    config.enable_mkldnn_bfloat16()
    config.set_cpu_math_library_num_threads(threads)
    predictor = paddle.inference.create_predictor(config)
    return Session(lambda: to_numpy(predictor.run([paddle.to_tensor(images)])[0]), core.supports_bfloat16())

"""Our networks and layers in other frameworks, for timing only.

``torch_conv`` and ``onnx_conv`` are for one depthwise layer, ``..._network`` and ``..._session`` for a whole network.
They return functions without arguments, which return an array. :mod:`ppreplk.benchmark.contestants` knows which
packages they need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.inference
from paddle import nn
from paddle.base import core

from ..deploy.onnx_file import BATCH, INPUT_NAME, OnnxWriter
from ..models.registry import graph_of
from ..nn import to_numpy
from ..nn.graph import ACTIVATION, ADD, CONV, DROP_PATH, INPUT, LINEAR, NORM, Graph, Node

Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Session:
    """A network, and whether its framework computes it in bfloat16, which it decides by itself."""

    run: Call
    bfloat16: bool

    def __call__(self) -> np.ndarray:
        return self.run()


# PyTorch


def to_torch(graph: Graph) -> Any:
    """The network of ``graph`` as a ``torch.nn.Module`` with the same weights, in whatever form it is in."""
    import torch

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(_torch_part(torch, node) for node in graph.nodes)

        def forward(self, images: Any) -> Any:
            values = [images]
            for node, part in zip(graph.nodes[1:], self.parts[1:]):
                values.append(part(*(values[x] for x in node.inputs)))
            return values[-1]

    return Twin()


def _torch_part(torch: Any, node: Node) -> Any:
    layer = node.layer
    if node.op == INPUT:
        return torch.nn.Identity()
    if node.op == CONV:
        pad = layer.dilation * (layer.kernel_size // 2)
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, pad, layer.dilation)
        conv = torch.nn.Conv2d(*sizes, layer.groups, bias=layer.bias is not None)
        _set(torch, conv, to_numpy(layer.weight), layer.bias)
        return conv
    if node.op == NORM:
        norm = torch.nn.BatchNorm2d(layer.weight.shape[0])
        values = {"weight": layer.weight, "bias": layer.bias}
        values |= {"running_mean": layer._mean, "running_var": layer._variance}
        state = {name: torch.from_numpy(to_numpy(value)) for name, value in values.items()}
        norm.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})
        return norm
    if node.op == ACTIVATION:
        return {"relu": torch.nn.ReLU, "relu6": torch.nn.ReLU6, "gelu": torch.nn.GELU}[str(node.kind)]()
    if node.op == ADD:
        return _torch_function(torch, lambda x, y: x + y)
    if node.op == DROP_PATH:
        return _torch_drop_path(torch, layer.rate)
    if node.op == LINEAR:
        linear = torch.nn.Linear(*layer.weight.shape)
        _set(torch, linear, to_numpy(layer.weight).T, layer.bias)
        return linear
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def _set(torch: Any, module: Any, weight: np.ndarray, bias: Any) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if bias is not None:
            module.bias.copy_(torch.from_numpy(to_numpy(bias)))


def _torch_function(torch: Any, function: Callable) -> Any:
    class Function(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    return Function()


def _torch_drop_path(torch: Any, rate: float) -> Any:
    class DropPath(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if not self.training or rate == 0.0:
                return x
            return x * (torch.rand(x.shape[0], 1, 1, 1) >= rate).to(x.dtype) / (1.0 - rate)

    return DropPath()


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
    network = to_torch(graph_of(model)).eval().to(memory_format=layout)
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
    network = to_torch(graph_of(model)).train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.05)
    tensor, target = torch.from_numpy(images).to(memory_format=layout), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(tensor), target).backward()
        optimizer.step()

    return step


# ONNX Runtime and OpenVINO


def onnx_conv(x: np.ndarray, weight: np.ndarray) -> bytes:
    """An ONNX file of one depthwise layer."""
    writer = OnnxWriter(x.shape)
    return writer.serialized(writer.conv(INPUT_NAME, weight, None, groups=len(weight)), x.shape)


def onnxruntime_session(model: bytes | Path, images: np.ndarray, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name(BATCH, len(images))
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {INPUT_NAME: images})[0]


@functools.cache
def _openvino_runtime() -> Any:
    """The one OpenVINO runtime of this process, kept to its end.

    Its CPU plugin gives the thread an alternate signal stack, and puts the stack before it back when it goes. Of two
    runtimes, the later one puts back that of the earlier one, which may be gone by then; the next signal that Python
    handles, such as Ctrl-C or the end of a data loader's worker, then ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


def openvino_session(model: bytes | Path, images: np.ndarray, threads: int, precision: str = "f32") -> Session:
    import openvino

    runtime = _openvino_runtime()
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

"""Our networks and layers in other frameworks, for timing only. Paddle is not imported here.

Each function returns a contestant: called without arguments, it computes once and returns an array, or nothing after a
training step or gradients. What they compute comes from files that :mod:`ppreplk.benchmark.peer_files` writes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]


@dataclass(frozen=True)
class Session:
    """A network, and whether its framework computes it in bfloat16, which it decides by itself."""

    run: Call
    bfloat16: bool

    def __call__(self) -> Any:
        return self.run()


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch


def torch_twin(record: str) -> Any:
    """The ``torch.nn.Module`` of a network that :func:`ppreplk.benchmark.peer_files.record` wrote down."""
    import torch

    with np.load(record) as arrays:
        steps = json.loads(str(arrays["steps"]))
        parts = [_torch_part(torch, step, arrays, number) for number, step in enumerate(steps)]

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(parts)

        def forward(self, images: Any) -> Any:
            values = [images]
            for step, part in zip(steps[1:], self.parts[1:]):
                values.append(part(*(values[x] for x in step["inputs"])))
            return values[-1]

    return Twin()


def _torch_part(torch: Any, step: dict[str, Any], arrays: Any, number: int) -> Any:
    ours: dict[str, Callable[..., Any]] = {"add": _torch_sum, "drop_path": _torch_drop_path, "pool": _torch_pool}
    kind = step["kind"]
    part = ours[kind](torch, **step["arguments"]) if kind in ours else getattr(torch.nn, kind)(**step["arguments"])
    state = {name: torch.from_numpy(arrays[f"{number}.{name}"]) for name in step["state"]}
    if state:
        part.load_state_dict(state)
    return part


def _torch_sum(torch: Any) -> Any:
    class Sum(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    return Sum()


def _torch_pool(torch: Any) -> Any:
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def _torch_drop_path(torch: Any, rate: float) -> Any:
    class DropPath(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            if not self.training or rate == 0.0:
                return x
            return x * (torch.rand(x.shape[0], 1, 1, 1) >= rate).to(x.dtype) / (1.0 - rate)

    return DropPath()


def _torch(threads: int, channels_last: bool) -> tuple[Any, Any]:
    """PyTorch with this number of threads, and the memory format."""
    import torch

    torch.set_num_threads(threads)
    return torch, torch.channels_last if channels_last else torch.contiguous_format


def torch_conv(x: str, weight: str, gradient: str, threads: int, channels_last: bool, backward: bool) -> Call:
    """A depthwise layer: its output, or the gradients of both operands."""
    torch, layout = _torch(threads, channels_last)
    image, kernel, dy = (
        torch.from_numpy(np.load(file)).contiguous(memory_format=layout) for file in (x, weight, gradient)
    )

    def convolve(image: Any, kernel: Any) -> Any:
        return torch.nn.functional.conv2d(image, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))

    def forward() -> np.ndarray:
        with torch.no_grad():
            return convolve(image, kernel).numpy()

    if not backward:
        return forward
    leaves = [image.requires_grad_(), kernel.requires_grad_()]
    y = convolve(*leaves)

    def gradients() -> None:
        torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return gradients


def torch_network(record: str, images: str, threads: int, channels_last: bool) -> Call:
    torch, layout = _torch(threads, channels_last)
    network = torch_twin(record).eval().to(memory_format=layout)
    tensor = torch.from_numpy(np.load(images)).contiguous(memory_format=layout)

    def run() -> np.ndarray:
        with torch.no_grad():
            return network(tensor).numpy()

    return run


def torch_training_step(record: str, images: str, labels: str, threads: int, channels_last: bool) -> Call:
    """Forward, backward, AdamW."""
    torch, layout = _torch(threads, channels_last)
    network = torch_twin(record).train().to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.05)
    tensor, target = (torch.from_numpy(np.load(file)) for file in (images, labels))
    tensor = tensor.contiguous(memory_format=layout)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(tensor), target).backward()
        optimizer.step()

    return step


# ----------------------------------------------------------------------------------------------------------------------
# ONNX Runtime and OpenVINO


def onnxruntime_session(model: str, images: str, threads: int) -> Call:
    import onnxruntime

    batch = np.load(images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", len(batch))  # BATCH in deploy/onnx_file.py
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: batch})[0]


@functools.cache
def _openvino_runtime() -> Any:
    """The one OpenVINO runtime of this process, kept to its end.

    Its CPU plugin gives the thread an alternate signal stack, and puts the stack before it back when it goes. Of two
    runtimes, the later one puts back that of the earlier one, which may be gone by then; the next signal that Python
    handles, such as Ctrl-C or the end of a data loader's worker, then ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


def openvino_session(model: str, images: str, threads: int, precision: str = "f32") -> Session:
    import openvino

    batch = np.load(images)
    runtime = _openvino_runtime()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = runtime.read_model(model)
    network.reshape(list(batch.shape))
    compiled = runtime.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    computes = compiled.get_property("INFERENCE_PRECISION_HINT")  # no longer a hint
    return Session(lambda: request.infer({0: batch})[0], computes == openvino.Type.bf16)

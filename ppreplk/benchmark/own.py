"""Our own contestants, each built in a process of its own. As :mod:`ppreplk.benchmark.peers`, but with Paddle."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import paddle
import paddle.inference
from paddle import nn
from paddle.base import core

from ..deploy.lowering import lower
from ..deploy.programs import BF16, BF16X3, FP32, INT8, Program
from ..models import build_model
from ..models.inference_form import inference_form
from ..models.training_form import Layout, training_form
from ..nn import set_implementation, to_numpy
from ..ops import cpu, depthwise_conv2d, onednn
from ..ops.training_layers import Products
from ..utils.device import keep_freed_memory, set_threads, use_vector_units
from .peers import Call, Session


def _with(threads: int) -> None:
    use_vector_units()
    set_threads(threads)


# ----------------------------------------------------------------------------------------------------------------------
# One depthwise layer


def layer(x: str, weight: str, gradient: str, threads: int, impl: str, backward: bool) -> Call:
    """Its output, or the gradients of both operands."""
    _with(threads)
    image, kernels, dy = (paddle.to_tensor(np.load(file)) for file in (x, weight, gradient))

    @paddle.no_grad()
    def forward() -> paddle.Tensor:
        return depthwise_conv2d(image, kernels, impl=impl)

    if not backward:
        return forward
    image.stop_gradient = kernels.stop_gradient = False
    y = depthwise_conv2d(image, kernels, impl=impl)

    def gradients() -> None:
        paddle.grad(y, [image, kernels], dy, retain_graph=True)

    return gradients


def packed_layer(x: str, weight: str, gradient: str, threads: int) -> Call:
    """The output of the C++ operator with weights that are packed already, as an exported program has them."""
    _with(threads)
    cpu.check_available()
    image, kernels = paddle.to_tensor(np.load(x)), paddle.to_tensor(np.load(weight))
    packed = cpu.pack(kernels, *image.shape[2:])
    return partial(cpu.packed_conv2d, image, kernels, packed, None, relu=False)


# ----------------------------------------------------------------------------------------------------------------------
# A network


def _network(name: str, weights: str) -> nn.Layer:
    model = build_model(name)
    model.set_state_dict(paddle.load(weights))
    model.eval()
    return model


def _eager(form: nn.Layer, images: str) -> Call:
    tensor = paddle.to_tensor(np.load(images))

    @paddle.no_grad()
    def run() -> np.ndarray:
        return form(tensor).numpy()

    return run


def eager(name: str, weights: str, images: str, threads: int, impl: str) -> Call:
    """The form that is saved as a program, run in eager mode."""
    _with(threads)
    return _eager(lower(_network(name, weights), depthwise=impl)[FP32], images)


def from_weights(name: str, weights: str, images: str, threads: int) -> Call:
    """What ``ppreplk eval`` and ``ppreplk infer`` run."""
    _with(threads)
    return _eager(inference_form(_network(name, weights)), images)


def program(folder: str, precision: str, images: str, threads: int) -> Session:
    """An exported program."""
    use_vector_units()
    run = partial(Program(folder, threads=threads, precision=precision), np.load(images))
    computes = {
        BF16: onednn.has_bfloat16,
        BF16X3: lambda: onednn.tiles_backend() != "none",
        INT8: onednn.has_int8,
    }
    return Session(run, precision in computes and computes[precision]())


def paddle_bfloat16(program: str, weights: str, images: str, threads: int) -> Session:
    """A program of Paddle's operators, which Paddle converts to bfloat16 as it loads it. No program of ours uses that.

    It needs AVX-512 for that, and leaves the program in float32 without a word where there is none.
    """
    use_vector_units()
    config = paddle.inference.Config(program, weights)
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()
    config.enable_mkldnn_bfloat16()
    config.set_cpu_math_library_num_threads(threads)
    predictor = paddle.inference.create_predictor(config)
    batch = np.load(images)
    return Session(lambda: to_numpy(predictor.run([paddle.to_tensor(batch)])[0]), core.supports_bfloat16())


def training_step(
    name: str,
    arguments: dict[str, Any],
    images: str,
    labels: str,
    threads: int,
    impl: str,
    layout: Layout,
    products: Products = "fp32",
) -> Call:
    """Forward, backward, AdamW, with the memory and the gradients handled as in a training."""
    _with(threads)
    keep_freed_memory()
    paddle.seed(0)
    model = build_model(name, **arguments)
    set_implementation(model, impl)
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=parameters, weight_decay=0.05)
    tensor, target = paddle.to_tensor(np.load(images)), paddle.to_tensor(np.load(labels))
    form = training_form(model, layout, products)

    def step() -> None:
        nn.functional.cross_entropy(form(tensor), target).backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)

    return step

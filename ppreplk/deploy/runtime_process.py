"""ONNX Runtime and OpenVINO, and a process that has one of them and no Paddle.

:mod:`ppreplk.deploy.other_runtimes` runs ``python -m ppreplk.deploy.runtime_process`` with the package, the file,
``.npy`` files of images and of outputs, and the number of threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"


def _onnxruntime(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    # bfloat16 would be its choice where the processor multiplies it
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", settings)
    return lambda images: model(images)[0]


LOADERS = {ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("package", choices=LOADERS)
    for argument in ("file", "images", "outputs"):
        parser.add_argument(argument)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    run = LOADERS[arguments.package](arguments.file, arguments.threads)
    np.save(arguments.outputs, run(np.load(arguments.images)))

"""Who takes part: our implementations that run here, and the frameworks that can be imported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ops import IMPLEMENTATIONS
from ..utils.errors import UserError
from ..utils.optional import import_problem

logger = logging.getLogger(__name__)

# {what the names of a framework's contestants begin with: the packages they need, the framework itself first}
FRAMEWORKS = {
    "torch": ("torch",),
    "ONNX Runtime": ("onnxruntime", "onnx"),
    "OpenVINO": ("openvino", "onnx"),
}


def usable_implementations() -> list[str]:
    """Implementations of the depthwise convolution that run here. Why the others do not is logged."""
    names = []
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            implementation.check_available()
            names.append(name)
        except UserError as error:
            logger.info("%s", error)
    return names


def needed_packages(contestant: str) -> Sequence[str]:
    """The packages that a contestant needs besides Paddle.

    >>> needed_packages("OpenVINO bf16"), needed_packages("Paddle, eager, fft")
    (('openvino', 'onnx'), ())
    """
    for framework, packages in FRAMEWORKS.items():
        if contestant.startswith(framework):
            return packages
    return ()


def build_contestants(builders: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Build the contestants whose packages can be imported. The others are logged and left out.

    Args:
        builders: {name: function that builds the contestant}.
    """
    contestants = {}
    for name, build in builders.items():
        problems = filter(None, map(import_problem, needed_packages(name)))
        problem = next(problems, None)
        if problem is None:
            contestants[name] = build()
        else:
            logger.info("without %s: %s", name, problem)
    return contestants

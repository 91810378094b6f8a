"""Who takes part: our implementations, and the frameworks that are there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..ops import IMPLEMENTATIONS
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

# {what the names of contestants begin with: the packages they import before the clock starts}
FRAMEWORKS = {"torch": ("torch",), "ONNX Runtime": ("onnxruntime",), "OpenVINO": ("openvino",), "Paddle": ("paddle",)}
OWN, PEERS = "ppreplk.benchmark.own", "ppreplk.benchmark.peers"  # modules of builders


def usable_implementations() -> list[str]:
    """Implementations of the depthwise convolution that run here. Of those for this device, why not is logged."""
    names = []
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            implementation.check_available()
            names.append(name)
        except UserError as error:
            if error.code != "ops.wrong-device":
                logger.info("%s", error)
    return names


def needed_packages(contestant: str) -> Sequence[str]:
    """The packages that a contestant's process imports.

    >>> needed_packages("OpenVINO bf16"), needed_packages("Paddle, eager, fft")
    (('openvino',), ('paddle',))
    """
    for framework, packages in FRAMEWORKS.items():
        if contestant.startswith(framework):
            return packages
    return ()

"""From measured times to the rule of ``auto`` on GPUs: from which kernel size on which implementation is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Optional

from .problems import Problem
from .rivals import CUDNN, CUFFT, OURS, PYTORCH

# {implementation of ppreplk.ops: contestants whose best it would be}. Paddle's tensors are NCHW.
STANDS_FOR = {"cuda": (OURS,), "fft": (CUFFT,), "native": (PYTORCH, CUDNN)}


class Time(NamedTuple):
    """One measurement."""

    problem: Problem
    type_name: str
    backward: bool
    contestant: str
    milliseconds: float


class Rule(NamedTuple):
    """The smallest kernel sizes from which on an implementation is the fastest; None is never.

    Args:
        cuda_from: the device kernels, of all implementations.
        fft_from: Fourier transforms, where the device kernels are not built.
    """

    cuda_from: Optional[int]
    fft_from: Optional[int]

    def text(self) -> str:
        """The rule as ``ppreplk/ops/depthwise.py`` has it."""
        return f'CUDA_FROM = {self.cuda_from}, FFT_FROM["gpu"] = {self.fft_from}'


def derive_rule(times: Iterable[Time]) -> Rule:
    """The rule that measured times give.

    A step of training is what counts: the forward and the backward pass of every shape and type of one kernel size.
    Only those shapes and types count that both sides were measured on, in both passes.
    """
    costs = _costs(times)
    return Rule(_faster_from(costs, "cuda", ("fft", "native")), _faster_from(costs, "fft", ("native",)))


Costs = dict[tuple[Problem, str], dict[str, float]]  # {(problem, type): {implementation: milliseconds of a step}}


def _costs(times: Iterable[Time]) -> Costs:
    passes: dict[tuple[Problem, str], dict[tuple[str, bool], float]] = {}
    for each in times:
        for implementation, contestants in STANDS_FOR.items():
            if each.contestant in contestants:
                found = passes.setdefault((each.problem, each.type_name), {})
                key = implementation, each.backward
                found[key] = min(each.milliseconds, found.get(key, math.inf))
    return {
        case: {
            name: found[name, False] + found[name, True]
            for name in STANDS_FOR
            if (name, False) in found and (name, True) in found
        }
        for case, found in passes.items()
    }


def _faster_from(costs: Costs, name: str, others: Sequence[str]) -> Optional[int]:
    """The smallest kernel from which on ``name`` is faster than the best of the others, on all larger ones too."""
    by_kernel: dict[int, list[float]] = {}
    for (problem, _), cost in costs.items():
        rivals = [cost[other] for other in others if other in cost]
        if name in cost and rivals:
            by_kernel.setdefault(problem.kernel, []).append(math.log(cost[name] / min(rivals)))
    first = None
    for kernel in sorted(by_kernel, reverse=True):
        if math.fsum(by_kernel[kernel]) >= 0:  # a geometric mean of 1 or more
            break
        first = kernel
    return first


def best_rival(times: Iterable[Time], problem: Problem, type_name: str, backward: bool) -> Optional[Time]:
    """The fastest other contestant of a case."""
    case = (problem, type_name, backward)
    found = [each for each in times if each[:3] == case and each.contestant != OURS]
    return min(found, key=lambda each: each.milliseconds, default=None)

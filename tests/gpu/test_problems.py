"""The convolutions that are timed: the paper's, and what they cost at least."""

import numpy as np
import pytest

from ppreplk.gpu.problems import (
    STAGES,
    Problem,
    checked_problems,
    least_bytes,
    multiply_adds,
    network_layers,
    table_1,
)
from ppreplk.models.registry import find_model


def test_table_1_of_the_paper():
    problems = table_1()
    assert len(problems) == 30 and {each[:2] for each in problems} == {(64, 384)}
    assert {each.height for each in problems} == {16, 32, 64} and all(each.height == each.width for each in problems)
    assert {each.kernel for each in problems} == {3, 5, 7, 9, 13, 17, 21, 27, 29, 31}


def test_layers_are_those_of_the_network():
    arguments = find_model("RepLKNet31B").arguments
    channels, sides, kernels, counts = zip(*STAGES)
    assert channels == tuple(arguments["channels"]) and kernels == tuple(arguments["large_kernel_sizes"])
    assert counts == tuple(arguments["layers"]) and sides == (56, 28, 14, 7)
    assert [each.kernel for each in network_layers(8)] == list(kernels)


def test_numbers_are_checked_on_many_shapes():
    problems = list(checked_problems())
    assert len(problems) == len(set(problems)) > 30
    assert max(each.kernel for each in problems) == 127
    assert {1, 130} <= {each.height for each in problems} and {1, 130} <= {each.width for each in problems}
    assert all(each.kernel % 2 and each.numbers <= 2_200_000 for each in problems)
    assert sum(each.batch * each.channels > 12_000 for each in problems) == 4, "a block takes several groups of maps"
    assert problems == list(checked_problems()), "the same ones every time"


@pytest.mark.parametrize("problem", [Problem(2, 3, 5, 7, 3), Problem(1, 1, 4, 1, 9), Problem(1, 2, 6, 6, 5)])
def test_multiply_adds_are_counted(problem):
    n, c, h, w, k = problem
    ones = np.pad(np.ones((h, w), int), k // 2)
    windows = np.lib.stride_tricks.sliding_window_view(ones, (k, k))
    assert multiply_adds(problem, backward=False) == n * c * windows.sum()
    assert multiply_adds(problem, backward=True) == 2 * n * c * windows.sum()


def test_least_bytes():
    problem = Problem(2, 3, 5, 7, 3)
    assert least_bytes(problem, "fp32", backward=False) == 4 * (2 * 210 + 27)
    assert least_bytes(problem, "bf16", backward=True) == 2 * (3 * 210 + 2 * 27)

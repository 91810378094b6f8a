"""The convolutions that are checked and timed, and what they cost at least."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}  # bytes of a number
# (channels, side, kernel, layers) of RepLKNet-31B's stages on images of 224x224
STAGES = ((128, 56, 31, 2), (256, 28, 29, 2), (512, 14, 27, 18), (1024, 7, 13, 2))
SMALL_KERNEL = 5  # parallel to each of them in training
BATCHES = (64, 8, 1)
# Table 1 of the paper: kernels of one layer on (64, 384, R, R)
TABLE_1_BATCH, TABLE_1_CHANNELS = 64, 384
TABLE_1_SIDES = (16, 32, 64)
TABLE_1_KERNELS = (3, 5, 7, 9, 13, 17, 21, 27, 29, 31)
MAX_NUMBERS = 400_000  # numbers in a sampled batch of maps


class Problem(NamedTuple):
    """A depthwise convolution of (batch, channels, height, width) with (channels, 1, kernel, kernel).

    >>> print(Problem(64, 384, 32, 32, 31))
    64x384x32x32, K 31
    """

    batch: int
    channels: int
    height: int
    width: int
    kernel: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width}, K {self.kernel}"

    @property
    def numbers(self) -> int:
        """Numbers in x, and in y."""
        return self.batch * self.channels * self.height * self.width

    @property
    def weights(self) -> int:
        return self.channels * self.kernel**2


def table_1() -> list[Problem]:
    """The layers of the paper's table 1 (section 3), kernels of one map size beside each other."""
    return [
        Problem(TABLE_1_BATCH, TABLE_1_CHANNELS, side, side, kernel)
        for side in TABLE_1_SIDES
        for kernel in TABLE_1_KERNELS
    ]


def network_layers(batch: int) -> list[Problem]:
    """One large layer of each stage of RepLKNet-31B."""
    return [Problem(batch, channels, side, side, kernel) for channels, side, kernel, _ in STAGES]


def checked_problems(count: int = 24, seed: int = 0) -> Iterator[Problem]:
    """Shapes to check numbers on: corners first, then sampled from 1x1 to 130x130 with kernels up to 127."""
    yield from (
        Problem(1, 16, 1, 1, 31),
        Problem(2, 3, 1, 130, 5),
        Problem(5, 40, 130, 1, 13),
        Problem(1, 130, 7, 7, 13),
        Problem(2, 16, 14, 14, 27),
        Problem(1, 1, 130, 129, 51),
        Problem(1, 3, 56, 56, 31),
        Problem(2, 40, 9, 33, 3),
        Problem(1, 130, 28, 28, 1),
        Problem(1, 2, 130, 130, 127),
    )
    yield from (problem._replace(batch=2, channels=17) for problem in network_layers(1))
    # So many maps that a block takes several groups of them, one after the other.
    yield from (
        Problem(65, 768, 2, 8, 3),
        Problem(65, 768, 2, 2, 9),
        Problem(17, 768, 9, 2, 13),
        Problem(64, 192, 12, 12, 31),
    )
    draw = random.Random(seed)
    for _ in range(count):
        height, width = draw.randint(1, 130), draw.randint(1, 130)
        channels = draw.choice((1, 3, 16, 40, 130))
        batch = min(draw.choice((1, 2, 5)), max(1, MAX_NUMBERS // (channels * height * width)))
        yield Problem(batch, channels, height, width, draw.randrange(1, 128, 2))


def least_bytes(problem: Problem, type_name: str, backward: bool) -> int:
    """Bytes to and from memory at least: each operand is read once, and each result written once.

    Forward reads x and the weight and writes y. Backward reads x, dy and the weight, and writes dx and dweight.
    """
    maps, kernels = (3, 2) if backward else (2, 1)
    return TYPES[type_name] * (maps * problem.numbers + kernels * problem.weights)


def multiply_adds(problem: Problem, backward: bool) -> int:
    """Multiply-adds of a direct sum over the pixels that are there; the zeros of the padding are not counted.

    >>> multiply_adds(Problem(1, 1, 2, 2, 3), backward=False)  # each of 4 outputs sees all 4 pixels
    16
    """
    rows, columns = (_pairs(length, problem.kernel) for length in (problem.height, problem.width))
    return (2 if backward else 1) * problem.batch * problem.channels * rows * columns


def _pairs(length: int, kernel: int) -> int:
    """Pairs of an output and an input position that are at most half a kernel apart."""
    reach = min(kernel // 2, length - 1)
    return length + 2 * sum(length - distance for distance in range(1, reach + 1))

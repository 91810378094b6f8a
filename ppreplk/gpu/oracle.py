"""The numbers of the device kernels against float64, on the GPU itself. Tensors are PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..ops import cuda_torch
from ..utils.tables import Table
from .problems import TYPES, Problem

WHATS = (
    "output",
    "output with bias and ReLU",
    "output with float32 weights",
    "gradient of x",
    "gradient of the weight",
    "gradient of x alone",
    "gradient of the weight alone",
)
# Largest error over a channel's largest value: of float32 sums, and of twice one rounding to the half types.
BOUNDS = {"fp32": 1e-5, "fp16": 2 * 2**-11, "bf16": 2 * 2**-8}
COLUMNS = ["dtype", "what", "shapes", "largest error", "bound", "on", "wrong"]


class Error(NamedTuple):
    """The largest error of one result, relative to the largest value of its channel; infinite for NaN and Inf."""

    problem: Problem
    type_name: str
    what: str
    value: float

    @property
    def is_wrong(self) -> bool:
        return not self.value <= BOUNDS[self.type_name]


def torch_type(name: str) -> Any:
    """``fp32``, ``fp16`` or ``bf16`` as PyTorch's type."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def operands(problem: Problem, type_name: str, device: str, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """x, weight, bias (float32) and dy: random numbers of a normal distribution."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    n, c, h, w, k = problem

    def draw(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, device=device)

    dtype = torch_type(type_name)
    return draw(n, c, h, w).to(dtype), draw(c, 1, k, k).to(dtype), draw(c), draw(n, c, h, w).to(dtype)


def smooth_length(least: int) -> int:
    """The smallest even number from ``least`` on without prime factors beyond 7, which transforms are fast for.

    >>> smooth_length(87), smooth_length(22)
    (90, 24)
    """
    for length in range(least + least % 2, 2 * least + 2, 2):
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
    raise AssertionError("a power of two lies between a number and its double")


def cropped(weight: Any, problem: Problem) -> Any:
    """The weight without what lies beyond every pixel of a small map."""
    half = problem.kernel // 2
    rows, columns = (min(half, length - 1) for length in (problem.height, problem.width))
    return weight[:, 0, half - rows : half + rows + 1, half - columns : half + columns + 1]


class Spectral:
    """The convolution and its gradients through PyTorch's Fourier transforms, in the type of the tensors.

    Outputs that wrap around fall on pixels that are cut away: transforms of a side and half a kernel are long enough.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        half = problem.kernel // 2
        self.halves = [min(half, length - 1) for length in problem[2:4]]
        self.lengths = [smooth_length(length + part) for length, part in zip(problem[2:4], self.halves)]

    def _forth(self, tensor: Any) -> Any:
        import torch

        return torch.fft.rfft2(tensor, self.lengths)

    def _back(self, spectrum: Any) -> Any:
        import torch

        return torch.fft.irfft2(spectrum, self.lengths)

    def _same(self, image: Any, kernel: Any) -> Any:
        """The middle of the product of two spectra."""
        (rows, columns), (height, width) = self.halves, self.problem[2:4]
        return self._back(image * kernel)[..., rows : rows + height, columns : columns + width]

    def output(self, x: Any, weight: Any) -> Any:
        return self._same(self._forth(x), self._forth(cropped(weight, self.problem).flip(-1, -2)))

    def gradients(self, x: Any, weight: Any, dy: Any) -> tuple[Any, Any]:
        import torch

        spectrum = self._forth(dy)
        dx = self._same(spectrum, self._forth(cropped(weight, self.problem)))
        lags = self._back((self._forth(x) * spectrum.conj()).sum(0)).roll(self.halves, (-2, -1))
        rows, columns = self.halves
        dweight = torch.zeros_like(weight)
        cropped(dweight, self.problem).copy_(lags[:, : 2 * rows + 1, : 2 * columns + 1])
        return dx, dweight


def channel_error(received: Any, expected: Any, scale: Any, channel_axis: int) -> float:
    """Largest absolute error over the largest absolute value of the same channel of ``scale``."""
    import torch

    if received.shape != expected.shape or not bool(torch.isfinite(received).all()):
        return float("inf")
    axes = [axis for axis in range(expected.dim()) if axis != channel_axis]
    largest = scale.abs().amax(axes).clamp_min(1e-30)
    return float(((received.double() - expected).abs().amax(axes) / largest).max())


def errors_of(problem: Problem, type_name: str, device: str, seed: int = 0) -> Iterator[Error]:
    """The errors of the output, with and without bias and ReLU and with float32 weights, and of both gradients.

    The gradients are computed at once and each alone.
    """
    import torch

    x, weight, bias, dy = operands(problem, type_name, device, seed)
    exact, wide = Spectral(problem), [each.double() for each in (x, weight, dy)]
    y = exact.output(*wide[:2])
    dx, dweight = exact.gradients(*wide)
    _spoil(x)
    with torch.no_grad():
        results = [cuda_torch.depthwise_conv2d(x, weight)]
        _spoil(x)
        results.append(cuda_torch.depthwise_conv2d(x, weight, bias, relu=True))
        _spoil(x)
        results.append(cuda_torch.depthwise_conv2d(x, weight.float()))
    _spoil(x, weight)
    results += cuda_torch.gradients(x, weight, dy)
    # By other kernels than both at once.
    _spoil(x)
    results.append(cuda_torch.gradients(x, weight, dy, (True, False))[0])
    _spoil(weight)
    results.append(cuda_torch.gradients(x, weight, dy, (False, True))[1])
    biased = y + bias.double()[:, None, None]
    # The scale of a ReLU's output is the largest value before it: it may leave nothing.
    gradients = [(dx, dx, 1), (dweight, dweight, 0)]
    cases = [(y, y, 1), (biased.relu(), biased, 1), (y, y, 1), *gradients, *gradients]
    for what, ours, (expected, scale, axis) in zip(WHATS, results, cases):
        yield Error(problem, type_name, what, channel_error(ours, expected, scale, axis))


def _spoil(*tensors: Any) -> None:
    """Leave NaN in the memory that PyTorch gives out next for tensors like these: what is not written then shows."""
    import torch

    spoiled = [torch.full_like(tensor, float("nan")) for tensor in tensors]
    del spoiled


def repeats_itself(problem: Problem, type_name: str, device: str) -> bool:
    """Whether two runs give the same bits: a race between threads would show as a difference."""
    import torch

    x, weight, bias, dy = operands(problem, type_name, device)
    runs = []
    for _ in range(2):
        y = cuda_torch.depthwise_conv2d(x, weight, bias)
        runs.append([y, *cuda_torch.gradients(x, weight, dy)])
    return all(torch.equal(_bits(one), _bits(other)) for one, other in zip(*runs))


def _bits(tensor: Any) -> Any:
    """As whole numbers: those of NaN are equal to themselves, and -0 is not 0."""
    import torch

    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def error_table(errors: Iterable[Error], title: str) -> Table:
    """The largest error of each type and result, and how many are beyond the bound."""
    errors, rows = list(errors), []
    for type_name in TYPES:
        for what in WHATS:
            group = [each for each in errors if (each.type_name, each.what) == (type_name, what)]
            if group:
                worst, wrong = max(group, key=lambda each: each.value), sum(each.is_wrong for each in group)
                cells = [f"{worst.value:.1e}", f"{BOUNDS[type_name]:.1e}", str(worst.problem), str(wrong or "none")]
                rows.append([type_name, what, str(len(group)), *cells])
    return Table(title, COLUMNS, rows)

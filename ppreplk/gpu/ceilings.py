"""What the card can do at most, measured: copying, and products of matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..utils.tables import Table
from .oracle import torch_type
from .problems import TYPES
from .stopwatch import Stopwatch

COPY_BYTES = 2**30
MATRIX = 8192
SHARE = 16  # each buffer takes at most this part of the memory


class Ceilings(NamedTuple):
    """Of one GPU.

    Args:
        card: its name, compute capability and memory, for people.
        bandwidth: bytes per second, read and written, of a copy in its memory.
        rates: {type: floating-point operations per second of a product of matrices}.
    """

    card: str
    bandwidth: float
    rates: dict[str, float]

    def table(self) -> Table:
        rows = [["copy of memory, read and written", f"{self.bandwidth / 1e9:.0f} GB/s"]]
        rows += [[f"product of matrices, {name}", f"{rate / 1e12:.1f} TFLOP/s"] for name, rate in self.rates.items()]
        return Table(f"What the card does at most, measured; {self.card}", ["what", "rate"], rows)


def describe(device: str) -> str:
    """Name, architecture, multiprocessors and memory of a GPU, and the versions of PyTorch, CUDA and cuDNN."""
    import torch

    card = torch.cuda.get_device_properties(device)
    software = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    size = f"{card.total_memory / 2**30:.0f} GiB"
    return f"{card.name}, sm_{card.major}{card.minor}, {card.multi_processor_count} multiprocessors, {size}; {software}"


def measure_ceilings(device: str, card: str, memory: int, watch: Stopwatch) -> Ceilings:
    """Measure them.

    Args:
        card: what :func:`describe` says.
        memory: bytes of it that may be used.
    """
    import torch

    size = min(COPY_BYTES, memory // SHARE)
    buffers = torch.ones(2, size, dtype=torch.uint8, device=device)
    bandwidth = 2 * size / (1e-3 * watch.milliseconds(lambda: buffers[1].copy_(buffers[0])))
    side = MATRIX
    while 4 * side**2 > memory // SHARE:
        side //= 2
    rates = {name: 2 * side**3 / (1e-3 * _product(device, name, side, watch)) for name in TYPES}
    return Ceilings(card, bandwidth, rates)


def _product(device: str, type_name: str, side: int, watch: Stopwatch) -> float:
    import torch

    # random numbers: with zeros a GPU is faster
    left, right = (torch.randn(side, side, device=device).to(torch_type(type_name)) for _ in range(2))
    out: Any = torch.empty_like(left)
    return watch.milliseconds(lambda: torch.mm(left, right, out=out))

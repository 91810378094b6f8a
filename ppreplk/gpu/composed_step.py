"""One training step of RepLKNet-31B, composed: the network around its large depthwise layers, and those layers.

The network around them is measured whole, with a step that leaves the large kernels out. It is written here in
PyTorch, from the paper's figure 4, because this check runs where Paddle is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from .problems import SMALL_KERNEL, STAGES
from .stopwatch import Stopwatch

CLASSES, SIDE = 1000, 224
Convolve = Callable[[Any, Any], Any]


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> Any:
    """Convolution, batch normalization, and a ReLU unless told otherwise."""
    from torch import nn

    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([nn.ReLU()] if relu else []))


def network(convolve: Optional[Convolve]) -> Any:
    """RepLKNet-31B in train form.

    Args:
        convolve: (x, weight) -> y, for the large kernels and the 5x5 beside each; None leaves both out.
    """
    import torch
    from torch import nn

    class Large(nn.Module):
        """A large kernel and a small one beside it, each with its batch normalization."""

        def __init__(self, channels: int, kernel: int) -> None:
            super().__init__()
            sizes = () if convolve is None else (kernel, SMALL_KERNEL)
            self.weights = nn.ParameterList([torch.randn(channels, 1, size, size) / size for size in sizes])
            self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(2)])

        def forward(self, x: Any) -> Any:
            if convolve is None:
                return sum(norm(x) for norm in self.norms)
            return sum(norm(convolve(x, weight)) for norm, weight in zip(self.norms, self.weights))

    class Residual(nn.Module):
        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return x + self.layers(x)

    def pair(channels: int, kernel: int) -> list[Any]:
        mixing = [nn.BatchNorm2d(channels), conv_bn(channels, channels, 1), Large(channels, kernel), nn.ReLU()]
        hidden = [nn.BatchNorm2d(channels), conv_bn(channels, 4 * channels, 1, relu=False), nn.GELU()]
        return [
            Residual(*mixing, conv_bn(channels, channels, 1, relu=False)),
            Residual(*hidden, conv_bn(4 * channels, channels, 1, relu=False)),
        ]

    base = STAGES[0][0]
    layers = [conv_bn(3, base, 3, 2), conv_bn(base, base, 3, 1, base), conv_bn(base, base, 1)]
    layers.append(conv_bn(base, base, 3, 2, base))
    for number, (channels, _, kernel, count) in enumerate(STAGES):
        if number:
            layers += [conv_bn(STAGES[number - 1][0], channels, 1), conv_bn(channels, channels, 3, 2, channels)]
        layers += [part for _ in range(count) for part in pair(channels, kernel)]
    last = STAGES[-1][0]
    return nn.Sequential(*layers, nn.BatchNorm2d(last), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, CLASSES))


def step_milliseconds(
    convolve: Optional[Convolve], batch: int, type_name: str, device: str, watch: Stopwatch, side: int = SIDE
) -> float:
    """Forward, backward and AdamW; in half precision under autocast, with float32 weights.

    Args:
        convolve: see :func:`network`.
        type_name: ``fp32``, ``fp16`` or ``bf16``. Without a scaler: gradients may overflow, which takes no time.
    """
    import torch

    from .oracle import torch_type

    model = network(convolve).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    kind = device.partition(":")[0]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind, None if type_name == "fp32" else torch_type(type_name), type_name != "fp32"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return watch.milliseconds(step)

"""RepLKNet for PaddlePaddle: 31x31 depthwise kernels, trained with a parallel kernel that is merged away.

Names are imported when they are first used, and Paddle with them: ``ppreplk --help`` answers at once, and what runs an
exported program loads no network code.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from .utils.paddle_version import REQUIREMENT
from .utils.version import __version__

warnings.filterwarnings("ignore", message="No ccache found")  # about a compiler cache, when Paddle is imported

if TYPE_CHECKING:
    from . import complexity, erf, models, optim, weights
    from .checkpoints.named import build_model
    from .deploy.predictor import Predictor
    from .models import list_models
    from .nn import fold, reparameterize
    from .ops import depthwise_conv2d, load_ops

__all__ = [
    "Predictor",
    "__version__",
    "build_model",
    "complexity",
    "depthwise_conv2d",
    "erf",
    "fold",
    "list_models",
    "load_ops",
    "models",
    "optim",
    "reparameterize",
    "weights",
]

_HOMES = {
    "Predictor": "deploy.predictor",
    "build_model": "checkpoints.named",
    "depthwise_conv2d": "ops",
    "fold": "nn",
    "list_models": "models",
    "load_ops": "ops",
    "reparameterize": "nn",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _HOMES:
            value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        else:
            value = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != "paddle":
            raise
        raise ModuleNotFoundError(f"Paddle is not installed; pip install {REQUIREMENT}", name="paddle") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

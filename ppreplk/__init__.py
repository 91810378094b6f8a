"""RepLKNet for PaddlePaddle: 31x31 depthwise kernels, trained with a parallel kernel that is merged away."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="No ccache found")  # Paddle warns about a compiler cache on import
    import paddle  # noqa: F401

from . import complexity, erf, models, optim, weights
from .models import build_model, list_models
from .ops import depthwise_conv2d, load_ops
from .reparam import fold, reparameterize

__version__ = "0.1.0"

__all__ = [
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

"""RepLKNet for PaddlePaddle: 31x31 depthwise kernels, trained with a parallel kernel that is merged away."""

from . import complexity, erf, models, optim, weights
from .models import build_model, list_models
from .ops import depthwise_conv2d
from .reparam import fold, reparameterize

__version__ = "0.1.0"

__all__ = [
    "build_model",
    "complexity",
    "depthwise_conv2d",
    "erf",
    "fold",
    "list_models",
    "models",
    "optim",
    "reparameterize",
    "weights",
]

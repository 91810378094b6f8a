"""Training and evaluation."""

from .evaluate import evaluate, evaluate_config
from .trainer import Trainer, train

__all__ = ["Trainer", "evaluate", "evaluate_config", "train"]

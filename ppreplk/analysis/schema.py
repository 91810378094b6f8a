"""The JSON Schema of a configuration, made of the tables of every room. Recipes name it; editors complete from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import json_schema, read_descriptions, write_json_schema
from ..data import BATCH_TRANSFORMS, DATASETS, TRANSFORMS
from ..models.registry import find_model, list_models
from ..training.losses import LOSSES
from ..training.metrics import METRICS
from ..training.optimizers import OPTIMIZERS
from ..training.schedules import SCHEDULES
from ..utils.atomic import make_folder

FILE = "schema.json"
DESCRIPTIONS = Path(__file__).parents[2] / "docs" / "config.md"  # in a clone; an installed package has no pages


def configuration_schema() -> dict[str, Any]:
    """The schema of today's sections, operators and networks, with the descriptions of docs/config.md."""
    descriptions = read_descriptions(DESCRIPTIONS.read_text(encoding="utf-8")) if DESCRIPTIONS.is_file() else None
    return json_schema(
        operators={
            "transform_ops": TRANSFORMS,
            "batch_transform_ops": BATCH_TRANSFORMS,
            "Loss": LOSSES,
            "Metric": METRICS,
            "Optimizer": OPTIMIZERS,
            "Optimizer.lr": SCHEDULES,
            "DataLoader: dataset": DATASETS,
        },
        models={name: find_model(name).architecture.network for name in list_models()},
        descriptions=descriptions,
    )


def write_schema(folder: str | Path) -> Path:
    """Write ``schema.json`` into ``folder``; returns the file.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(folder) / FILE
    make_folder(path.parent)
    write_json_schema(path, configuration_schema())
    return path

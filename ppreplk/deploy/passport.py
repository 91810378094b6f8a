"""``export.json``: what lies in a folder of an export, how it was made, and how far it is from the trained network."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..checkpoints.trained_classes import trained_metric
from ..config import Config
from ..utils.digests import sha256_of
from ..utils.version import __version__
from .calibration import CalibrationImages
from .programs import INT8, PROGRAMS, input_ranges
from .verify import Verification

FILE = "export.json"
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "onnx", "onnxruntime", "openvino", "paddle2onnx")


def write_passport(
    folder: Path,
    config: Config,
    formats: Mapping[str, Sequence[str]],
    results: Sequence[Verification],
    calibrated_with: CalibrationImages | None = None,
) -> None:
    """Write the passport of the files in ``folder``.

    Args:
        folder: holds the files.
        config: the export's.
        formats: {format: names of its files}.
        results: of the verification.
        calibrated_with: the images of an int8 program.
    """
    infer = config.require("Infer")
    content: dict[str, Any] = {
        "model": config.Arch.name,
        "classes": config.Arch.class_num,
        "input": {"name": "images", "shape": ["batch", *config.Global.image_shape], "dtype": "float32"},
        "output": "probabilities" if config.Arch.infer_add_softmax else "logits",
        "formats": {name: list(files) for name, files in formats.items()},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.iterdir())
            if path.is_file()
        },
        "verification": [
            {
                "runtime": result.runtime.name,
                "largest_difference": result.difference,
                "largest_logit": result.scale,
                "same_class_first": result.same,
                "real_images": result.real,
            }
            for result in results
        ],
        **_calibration(folder, calibrated_with),
        "preprocessing": [{op.name: dict(op.arguments)} for op in infer.transforms],
        "weights": config.Global.pretrained_model,
        "evaluation": trained_metric(config.Global.pretrained_model or ""),
        "made": {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "ppreplk": __version__,
            **_versions(),
        },
    }
    # the weights' path may hold bytes that are no text; JSON reads such a "\udcXX" as the same path again
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8", errors="backslashreplace")


def _calibration(folder: Path, images: CalibrationImages | None) -> dict[str, Any]:
    """What an int8 program was calibrated with, and the ranges of its convolutions' inputs, in order."""
    if images is None:
        return {}
    ranges = input_ranges(folder / f"{PROGRAMS[INT8]}.json")
    return {"calibration": {"of": images.split, "images": len(images.paths), "input_ranges": ranges}}


def _versions() -> dict[str, str]:
    """{package: version} of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

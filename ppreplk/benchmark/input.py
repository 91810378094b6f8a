"""How fast images are read, decoded and transformed on one core, beside a plain decode and resize."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import Config, SplitConfig
from ..data import ImageDataset, build_dataset, prepare_dataset
from ..utils.errors import UserError
from ..utils.optional import import_optional
from ..utils.tables import Table
from .timing import take_turns

logger = logging.getLogger(__name__)

SIDES = (500, 375)  # width and height, about the average of ImageNet's images
QUALITY = 95
PHOTOGRAPHS = 64


def measure_data(config: Config, rounds: int, images: int) -> Table:
    """Images per second on one core for ``DataLoader.Train``: reading, decoding, and all transforms.

    If the data set is not there, crops of scikit-learn's two photographs are saved as JPEG and used instead.

    Args:
        config: with the transforms to measure.
        rounds: turns of each contestant.
        images: number in a turn.

    Raises:
        UserError: there is no ``DataLoader.Train``, or it cannot be built.
    """
    split = config.DataLoader.Train
    if split is None:
        raise UserError("DataLoader.Train is missing: there is no input to measure", code="benchmark.no-input")
    with tempfile.TemporaryDirectory() as folder:
        dataset, source = _dataset(config, split, Path(folder))
        _, height, width = config.Global.image_shape
        contestants: dict[str, Callable[[str], Any]] = {
            "plain decode and resize (bicubic)": lambda path: _decoded(path).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            "plain decode": _decoded,
        }
        paths = [sample.path for sample in dataset.samples[:images]]
        calls = {name: _over(paths, images, one) for name, one in contestants.items()}
        calls = {"this configuration": _over(range(len(paths)), images, dataset.__getitem__), **calls}
        times = take_turns(calls, rounds)
    ours = times["this configuration"].median
    rows = [
        [name, f"{images / median:.0f}", f"{images / minimum:.0f}", f"{median / ours:.2f}"]
        for name, (minimum, median) in times.items()
    ]
    title = f"Input, images per second on one core: {source}, {rounds} rounds of {images}"
    return Table(title, ["what", "median", "best", "time, this configuration = 1"], rows)


def _decoded(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _over(items: Any, count: int, one: Callable[[Any], Any]) -> Callable[[], None]:
    """A function that calls ``one`` with ``count`` items, starting over when they run out."""

    def run() -> None:
        for number in range(count):
            one(items[number % len(items)])

    return run


def _dataset(config: Config, split: SplitConfig, folder: Path) -> tuple[ImageDataset, str]:
    """The configured data set, or else photographs, and what the title calls them."""
    try:
        prepare_dataset(config)
        dataset = build_dataset(split.dataset, config.Arch.class_num, 0, config.Arch.in_channels)
        return dataset, dataset.source
    except UserError as error:
        logger.info("%s", error)
        logger.info("measuring on crops of scikit-learn's photographs instead")
    write_photographs(folder)
    stand_in = copy.copy(split.dataset)
    stand_in.name = "ImageNetDataset"
    stand_in.arguments = {"image_root": str(folder), "cls_label_path": str(folder / "list.txt")}
    dataset = build_dataset(stand_in, config.Arch.class_num, 0, config.Arch.in_channels)
    return dataset, f"photographs, {SIDES[0]}x{SIDES[1]}, JPEG quality {QUALITY}"


def write_photographs(folder: Path) -> None:
    """Write :data:`PHOTOGRAPHS` JPEG files, crops of scikit-learn's two photographs, and ``list.txt``."""
    sklearn = import_optional(
        "sklearn.datasets",
        "without the images of the configuration, scikit-learn's two photographs are measured",
        "pip install scikit-learn",
        "benchmark.missing-package",
    )
    photographs = sklearn.load_sample_images().images
    rng = np.random.default_rng(0)
    width, height = SIDES
    names = []
    for number in range(PHOTOGRAPHS):
        photograph = Image.fromarray(photographs[number % 2])
        left = int(rng.integers(photograph.size[0] - width + 1))
        top = int(rng.integers(photograph.size[1] - height + 1))
        names.append(f"{number}.jpg")
        photograph.crop((left, top, left + width, top + height)).save(folder / names[-1], "JPEG", quality=QUALITY)
    (folder / "list.txt").write_text("".join(f"{name} 0\n" for name in names), encoding="utf-8")

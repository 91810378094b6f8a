"""Tiny data sets in the formats of Cityscapes and ADE20K, a small network, and the launcher as a user calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from helpers import ROOT
from PIL import Image

SIDE = 64
COLOURS = np.array([(40, 40, 40), (200, 60, 60), (60, 190, 60), (60, 60, 210)])
CITYSCAPES_CLASSES = (0, 8, 11, 13)  # road, vegetation, person, car: what the scenes are labelled as
ADE_CLASSES = (2, 4, 12, 20)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) of coloured rectangles with noise, and which of four colours each pixel has."""
    rng = np.random.default_rng(seed)
    label = np.zeros((SIDE, SIDE), np.int64)
    for colour in rng.permutation([1, 2, 3]):
        top, left = rng.integers(0, SIDE - 28, 2)
        height, width = rng.integers(20, 28, 2)
        label[top : top + height, left : left + width] = colour
    pixels = COLOURS[label] + rng.integers(-25, 26, (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), label


def write_cityscapes(root: Path, train: int = 8, val: int = 4) -> None:
    """``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png``.

    The held-out images are the first of the training ones: a network that learns nothing else can recall them.
    """
    for split, count in (("train", train), ("val", val)):
        for folder in ("leftImg8bit", "gtFine"):
            (root / folder / split / "tinytown").mkdir(parents=True)
        for index in range(count):
            pixels, label = scene(index)
            stem = f"tinytown_{index:06d}_000019"
            Image.fromarray(pixels).save(root / "leftImg8bit" / split / "tinytown" / f"{stem}_leftImg8bit.png")
            ids = np.array(CITYSCAPES_CLASSES)[label].astype(np.uint8)
            ids[:2] = 255  # not evaluated, as the borders of real images
            Image.fromarray(ids).save(root / "gtFine" / split / "tinytown" / f"{stem}_gtFine_labelTrainIds.png")


def write_ade(root: Path, train: int = 8, val: int = 4) -> None:
    """``images/SPLIT/*.jpg`` and ``annotations/SPLIT/*.png``, in which 0 is no class and the first class is 1."""
    for split, count in (("training", train), ("validation", val)):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            pixels, label = scene(index)
            stem = f"ADE_{split[:-3]}_{index:08d}"
            Image.fromarray(pixels).save(root / "images" / split / f"{stem}.jpg", quality=98)
            ids = (np.array(ADE_CLASSES)[label] + 1).astype(np.uint8)
            ids[:, :2] = 0
            Image.fromarray(ids).save(root / "annotations" / split / f"{stem}.png")


WRITERS = {"Cityscapes": (write_cityscapes, 19, CITYSCAPES_CLASSES), "ADE20K": (write_ade, 150, ADE_CLASSES)}


def config(kind: str, root: str, iters: int = 100, **backbone: object) -> dict:
    """A configuration in PaddleSeg's format: UPerNetRepLKNet with narrow heads on a narrow RepLKNet."""
    classes = WRITERS[kind][1]
    normalize = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    flip = {"type": "RandomHorizontalFlip"}
    return {
        "batch_size": 4,
        "iters": iters,
        "train_dataset": {"type": kind, "dataset_root": root, "mode": "train", "transforms": [flip, normalize]},
        "val_dataset": {"type": kind, "dataset_root": root, "mode": "val", "transforms": [normalize]},
        "model": {
            "type": "UPerNetRepLKNet",
            "num_classes": classes,
            "backbone": {"type": "RepLKNet13T", "drop_path_rate": 0.05, **backbone},
            "backbone_indices": [0, 1, 2, 3],
            "channels": 32,
            "aux_channels": 16,
        },
        "optimizer": {
            "type": "AdamW",
            "weight_decay": 0.01,
            "custom_cfg": [{"name": "bn", "weight_decay_mult": 0.0}],
        },
        "lr_scheduler": {
            "type": "PolynomialDecay",
            "learning_rate": 0.008,
            "end_lr": 0,
            "power": 1.0,
            "warmup_iters": 10,
            "warmup_start_lr": 1.0e-5,
        },
        "loss": {"types": [{"type": "CrossEntropyLoss"}] * 2, "coef": [1, 0.4]},
    }


def write_project(folder: Path, kind: str = "Cityscapes", **settings: object) -> Path:
    """A folder with data and ``tiny.yml``."""
    WRITERS[kind][0](folder / "data")
    write(folder / "tiny.yml", config(kind, "data", **settings))
    return folder


def write(path: Path, content: dict) -> None:
    path.write_text(yaml.dump(content, Dumper=_NoAliases, sort_keys=False))


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def launch(
    folder: Path,
    *arguments: object,
    env: dict | None = None,
    processes: int = 1,
    script: str = str(ROOT / "ppreplk" / "plugins" / "paddleseg" / "__main__.py"),
) -> subprocess.CompletedProcess:
    """The plugin's launcher, or another script, with arguments; in one process or in several, which must end well.

    Several cards take ``python -m paddle.distributed.launch --gpus 0,1 python -m ppreplk.plugins.paddleseg``; on CPUs
    Paddle's launcher runs files alone.
    """
    module = ["-m", "ppreplk.plugins.paddleseg"] if script.endswith("__main__.py") else [script]
    command = [sys.executable, *module]
    if processes > 1:
        launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        command = [*launcher, "--backend", "gloo", "--log_dir", "logs", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **(env or {})}
    process = subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    logs = [path.read_text() for path in sorted((folder / "logs").glob("workerlog.*"))] if processes > 1 else []
    return subprocess.CompletedProcess(process.args, process.returncode, process.stdout, process.stderr + "".join(logs))


def class_ious(output: str) -> np.ndarray:
    """The IoU of each class in the last evaluation that PaddleSeg printed."""
    text = output.split("Class IoU:")[-1].partition("]")[0]
    return np.array([float(number) for number in re.findall(r"\d+\.\d*", text)])

"""Datasets: image files with class labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
from paddle.io import Dataset

from ..config import RGB, DatasetConfig, Op, construct, find_op
from ..utils.errors import UserError
from ..utils.paths import FilePath
from .classes import ClassCounts
from .images import NORMALIZED
from .listing import Listing, Report, read_folder_listing, read_listing, stop_at
from .transforms import Pipeline, build_transforms


class ImageDataset(Dataset):
    """Labelled image files through a pipeline of transforms.

    Args:
        listing: the images, and the names of their classes where they have some.
        source: the list file or folder that names them, for messages.
        transforms: from encoded bytes to (H, W, C) float32.
        seed: of the random transforms. What is drawn for an image depends on the seed, the epoch and its index alone.
    """

    def __init__(self, listing: Listing, source: str, transforms: Pipeline, seed: int):
        super().__init__()
        self.samples = listing.samples
        self.classes: Optional[list[str]] = listing.classes
        self.source = source
        self.transforms = transforms
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the random draws of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def class_counts(self, class_num: int) -> ClassCounts:
        """How many images each of ``class_num`` classes has."""
        numbers = np.bincount(self.samples.labels, minlength=class_num)
        return ClassCounts(numbers, self.source, self.classes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, int]:
        """(C, H, W) float32, label, index.

        Raises:
            UserError: the image cannot be read. The message names it and the place that lists it.
        """
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        try:
            image = load_image(sample.path, self.transforms, rng)
        except UserError as error:
            raise error.at(sample.origin) from error
        return np.ascontiguousarray(image.transpose(2, 0, 1)), sample.label, index


class ImageNetDataset(ImageDataset):
    """Images named in a list file, one ``path label`` per line, paths relative to ``image_root``.

    The whole list is checked at once, and so is that every image exists.

    Args:
        image_root: folder of the images.
        cls_label_path: the list file.
        transforms, seed: see :class:`ImageDataset`.
        class_num, delimiter, relabel, report: see :func:`~ppreplk.data.listing.read_listing`.

    Raises:
        UserError: a missing file or folder, or a line that is wrong, by its number.
    """

    def __init__(
        self,
        image_root: FilePath,
        cls_label_path: FilePath,
        transforms: Pipeline,
        class_num: int,
        seed: int = 0,
        delimiter: Optional[str] = None,
        relabel: bool = False,
        report: Report = stop_at,
    ):
        listing = read_listing(image_root, cls_label_path, class_num, delimiter, relabel, report)
        super().__init__(listing, cls_label_path, transforms, seed)


class ImageFolderDataset(ImageDataset):
    """Images in one folder per class, ``image_root/CLASS/...``. Classes are numbered in the order of their names.

    PaddleClas has no such dataset.

    Args:
        image_root: folder of the class folders.
        transforms, seed: see :class:`ImageDataset`.
        class_num: there must be this many class folders.
        report: see :func:`~ppreplk.data.listing.read_folder_listing`.

    Raises:
        UserError: no such folder, another number of classes, or a class without images.
    """

    def __init__(
        self,
        image_root: FilePath,
        transforms: Pipeline,
        class_num: int,
        seed: int = 0,
        report: Report = stop_at,
    ):
        super().__init__(read_folder_listing(image_root, class_num, report), image_root, transforms, seed)


def read_image_file(path: str) -> bytes:
    """What is in a file.

    Raises:
        UserError: it cannot be read. The message names it.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror or error})", code="data.unreadable-image", where=path
        ) from error


def load_image(path: str, transforms: Pipeline, rng: np.random.Generator) -> Any:
    """Read a file and transform it.

    Raises:
        UserError: the file cannot be read, or is not an image. The message names it.
    """
    data = read_image_file(path)
    try:
        return transforms(data, rng)
    except UserError as error:
        raise error.at(path) from error


DATASETS = {"ImageNetDataset": ImageNetDataset, "ImageFolderDataset": ImageFolderDataset}
UNSERVED_DATASETS = dict.fromkeys(
    (
        "Cifar10 Cifar100 CustomLabelDataset DukeMTMC FiveValidationDataset AdaFaceDataset ICartoonDataset "
        "LogoDataset Market1501 MSMT17 MixDataset MultiLabelDataset MultiScaleDataset CompCars VeriWild"
    ).split(),
    "classification reads ImageNetDataset (a list file) or ImageFolderDataset (a folder per class)",
)


def build_dataset(
    config: DatasetConfig, class_num: int, seed: int, channels: int = RGB, report: Report = stop_at
) -> ImageDataset:
    """The dataset of ``DataLoader.*.dataset``. It needs no device.

    Args:
        config: the section.
        class_num: number of classes.
        seed: of the random transforms.
        channels: of the images.
        report: is given every line and folder that is wrong; where it returns, the others make the dataset.

    Raises:
        UserError: an unknown dataset, and see the datasets and the transforms.
    """
    op = Op(config.name, config.arguments, config.where)
    factory = find_op(op, DATASETS, UNSERVED_DATASETS, "dataset")
    transforms = build_transforms(config.transform_ops, NORMALIZED, channels=channels)
    given = {"transforms": transforms, "class_num": class_num, "seed": seed, "report": report}
    return construct(factory, op.arguments, op.where, **given)

"""Images from files to batches: datasets, transforms, mixing, loading."""

from .datasets import ImageDataset, ImageFolderDataset, ImageNetDataset
from .loader import Loader, build_dataset, build_loader
from .transforms import Pipeline, build_transforms

__all__ = [
    "ImageDataset",
    "ImageFolderDataset",
    "ImageNetDataset",
    "Loader",
    "Pipeline",
    "build_dataset",
    "build_loader",
    "build_transforms",
]

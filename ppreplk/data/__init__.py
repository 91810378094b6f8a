"""Images from files to batches: datasets, transforms, mixing, loading."""

from .datasets import DATASETS, ImageDataset, ImageFolderDataset, ImageNetDataset, build_dataset, load_image
from .decoding import DecodeImage
from .digits import prepare_dataset, prepare_digits
from .images import ENCODED, IMAGE, IMAGE_CHW, NORMALIZED, NORMALIZED_CHW
from .listing import Sample, find_images, read_folders, read_list
from .loader import Loader, build_loader
from .mixing import BATCH_TRANSFORMS, build_batch_transforms
from .transforms import TRANSFORMS, Pipeline, build_transforms

__all__ = [
    "BATCH_TRANSFORMS",
    "DATASETS",
    "ENCODED",
    "IMAGE",
    "IMAGE_CHW",
    "NORMALIZED",
    "NORMALIZED_CHW",
    "TRANSFORMS",
    "ImageDataset",
    "ImageFolderDataset",
    "ImageNetDataset",
    "DecodeImage",
    "Loader",
    "Pipeline",
    "Sample",
    "build_batch_transforms",
    "build_dataset",
    "build_loader",
    "build_transforms",
    "find_images",
    "load_image",
    "prepare_dataset",
    "prepare_digits",
    "read_folders",
    "read_list",
]

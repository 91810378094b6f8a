"""What the classes of a network with trained weights are called."""

from __future__ import annotations

import logging
import os

from ..checkpoints.trained_classes import trained_classes
from ..config import Config
from ..data.listing import class_folders
from .class_names import names_of_file

logger = logging.getLogger(__name__)


def class_names(config: Config) -> list[str] | None:
    """What the classes of the network are called, in order; None where nobody says it.

    The first of these counts: the file ``Infer.PostProcess.class_id_map_file``; what the training of the weights has
    written down; the class folders of the training or evaluation images.

    Raises:
        UserError: the file cannot be read, or has not as many names as the network has classes.
    """
    names = names_of_file(config)
    if names is not None:
        return names
    weights = config.Global.pretrained_model
    sources = [(f"the training of {weights}", trained_classes(weights) if weights else None), *_folder_names(config)]
    for source, found in sources:
        if found is not None and len(found) == config.Arch.class_num:
            logger.info("class names are those of %s", source)
            return found
    return None


def _folder_names(config: Config) -> list[tuple[str, list[str]]]:
    """Folders that have one folder per class, with the names of those."""
    splits = [split for split in (config.DataLoader.Train, config.DataLoader.Eval) if split is not None]
    roots = [
        str(split.dataset.arguments.get("image_root")) for split in splits if split.dataset.name == "ImageFolderDataset"
    ]
    return [(root, class_folders(root)) for root in roots if os.path.isdir(root)]

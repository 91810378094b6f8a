"""The 1,797 handwritten digits inside scikit-learn, written out as image and list files.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, test part: 8x8 pixels, 16 grey levels.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import Config, argument
from ..utils.errors import UserError
from ..utils.optional import import_optional
from ..utils.paths import FilePath

logger = logging.getLogger(__name__)

HELD_OUT_EVERY = 5  # every fifth image, counted in scikit-learn's order, is held out
GREY_LEVELS = 16
TRAIN_LIST, EVAL_LIST = "train_list.txt", "val_list.txt"
LISTS = (TRAIN_LIST, EVAL_LIST)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def prepare_digits(root: str | Path) -> None:
    """Write the digits to ``root``, unless they are there.

    The folder holds ``images/*.png``, ``train_list.txt`` (1,437 images), ``val_list.txt`` (360 images) and
    ``labels.txt``. It appears complete or not at all.

    Raises:
        UserError: scikit-learn is missing or broken, or ``root`` cannot be written or holds something else.
    """
    root = Path(root)

    def complete() -> bool:
        return all((root / name).is_file() for name in (*LISTS, "labels.txt"))

    if complete():
        return
    with new_folder(root, "the digits", complete) as staging:
        images, labels = read_digits()
        _write(staging, images, labels)
    logger.info("wrote the %d handwritten digits of scikit-learn to %s", len(labels), root)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits as they come: images (1797, 8, 8) from 0 to 16, and classes (1797,).

    Raises:
        UserError: scikit-learn is missing or broken.
    """
    sklearn = import_optional(
        "sklearn.datasets",
        "the digits come with scikit-learn, which is missing or broken",
        "pip install scikit-learn",
        "data.missing-package",
    )
    digits = sklearn.load_digits()
    return digits.images, digits.target


def is_held_out(count: int) -> np.ndarray:
    """(count,) bool: which of the digits, in scikit-learn's order, are for evaluation."""
    return np.arange(count) % HELD_OUT_EVERY == 0


@contextmanager
def new_folder(root: Path, what: str, complete: Callable[[], bool]) -> Iterator[Path]:
    """Give a folder to fill, which appears at ``root`` when the block succeeds. Otherwise it is removed.

    Args:
        root: must not exist, or be an empty folder.
        what: it holds, for messages.
        complete: tells whether ``root`` holds all of it; another process may have been first.

    Raises:
        UserError: ``root`` cannot be written or holds something.
    """
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(
            f"cannot put {what} in {root}: it is a file or a folder with other files; name another place",
            code="data.occupied-folder",
        )
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.absolute().parent))
    except OSError as error:
        raise _not_writable(root, what, error) from error
    try:
        yield staging
        os.chmod(staging, 0o755)
        os.replace(staging, root)
    except OSError as error:
        if not complete():
            raise _not_writable(root, what, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _not_writable(root: Path, what: str, error: OSError) -> UserError:
    return UserError(f"cannot write {what} to {root} ({error.strerror or error})", code="data.not-writable")


def _write(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (folder / "images").mkdir()
    lists: dict[str, list[str]] = {TRAIN_LIST: [], EVAL_LIST: []}
    for index, (image, label, held_out) in enumerate(zip(images, labels, is_held_out(len(images)))):
        name = f"images/{index:04d}.png"
        grey = np.round(image * (255 / GREY_LEVELS)).astype(np.uint8)
        Image.fromarray(grey).save(folder / name)
        lists[EVAL_LIST if held_out else TRAIN_LIST].append(f"{name} {label}")
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    labels_text = "".join(f"{index} {name}\n" for index, name in enumerate(NAMES))
    (folder / "labels.txt").write_text(labels_text, encoding="utf-8")


def prepare_dataset(config: Config) -> None:
    """Write the data set that ``Global.builtin_dataset`` names to where ``DataLoader`` looks for it.

    Raises:
        UserError: it cannot be written, or ``DataLoader`` looks for something else.
    """
    if config.Global.builtin_dataset != "digits":
        return
    for split in (config.DataLoader.Train, config.DataLoader.Eval):
        if split is None:
            continue
        keys = ("image_root", "cls_label_path")
        root, list_file = (argument(split.dataset.arguments, key, FilePath, split.dataset.where) for key in keys)
        if Path(list_file).parent != Path(root) or Path(list_file).name not in LISTS:
            raise UserError(
                f"Global.builtin_dataset writes {' and '.join(LISTS)} into image_root, {root}, "
                f"but cls_label_path is {list_file}; name one folder, or set Global.builtin_dataset=null",
                code="data.builtin-dataset",
                where=split.dataset.where,
            )
        prepare_digits(root)

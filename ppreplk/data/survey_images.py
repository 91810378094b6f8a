"""Every image file of a data set read and decoded once, in parallel: size, mode, digests, and what is wrong with it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..utils.errors import UserError
from ..utils.log import progress
from .datasets import ImageDataset, read_image_file
from .decoding import DecodeImage, DecodeRandomCrop
from .images import as_array
from .resizing import CropImage, ResizeImage
from .workers import FORK_IS_SAFE, WorkerPool

CHUNK = 64  # images that a worker reads before it reports
RECORD = np.dtype(
    [
        ("usable", "?"),
        ("bytes", "u8"),  # of the file
        ("width", "u4"),
        ("height", "u4"),
        ("mode", "S6"),  # in the file, as Pillow calls it; empty where Pillow does not know the format
        ("format", "S8"),
        ("file_digest", "u8"),
        ("digest", "u8"),  # of the decoded picture
    ]
)  # 50 bytes, so that a million images fit


class Failure(NamedTuple):
    """An image that cannot be used: its number over all data sets, and the error's code and message."""

    number: int
    code: str
    message: str


def examine(datasets: Sequence[ImageDataset], workers: int) -> tuple[list[np.ndarray], list[Failure]]:
    """Read and decode all images.

    Args:
        datasets: whose transforms decode them, and resize and crop them where that depends on nothing random.
        workers: processes that read. Where processes cannot be forked, this one reads.

    Returns:
        An array (N,) of :data:`RECORD` for each data set, and the images that cannot be used, in order.

    Raises:
        UserError: a worker was ended from outside.
    """
    total = sum(map(len, datasets))
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    records, failures = np.zeros(total, RECORD), list[Failure]()
    done = 0
    try:
        with progress(_results(Examiner(datasets), chunks, workers), len(chunks), f"{total} images") as results:
            for part, failed in results:
                records[done : done + len(part)] = part
                failures += failed
                done += len(part)
    except UserError as error:
        if error.code != "data.worker-died":
            raise
        raise UserError(
            f"a process that reads images was ended after about {done} of {total} images: memory has run out, or an "
            "image crashes its decoder; take fewer --workers",
            code=error.code,
        ) from error
    ends = np.cumsum([len(dataset) for dataset in datasets])
    return np.split(records, ends[:-1]), failures


def _results(examiner: Examiner, chunks: Sequence[range], workers: int) -> Iterator[tuple[np.ndarray, list[Failure]]]:
    if workers < 2 or not FORK_IS_SAFE or not chunks:
        yield from map(examiner, chunks)
        return
    with WorkerPool(examiner, chunks, workers, buffer_size=0) as pool:
        yield from pool.batches(lambda records, failures: (records, failures))


class Examiner:
    """Reads images by their numbers, which go on from one data set to the next."""

    def __init__(self, datasets: Sequence[ImageDataset]):
        self.datasets = datasets
        self.starts = np.cumsum([0, *map(len, datasets)])
        self.steps = [_fixed_steps(dataset.transforms.transforms) for dataset in datasets]
        self.rng = np.random.default_rng(0)  # nothing is drawn from it

    def __call__(self, numbers: Sequence[int]) -> tuple[np.ndarray, list[Failure]]:
        """Records (N,) of the images, and those that cannot be used."""
        records, failures = np.zeros(len(numbers), RECORD), []
        for record, number in zip(records, numbers):
            place = int(np.searchsorted(self.starts, number, side="right")) - 1
            path, _, origin = self.datasets[place].samples[number - int(self.starts[place])]
            try:
                self._examine(path, self.steps[place], record)
            except UserError as error:
                failures.append(Failure(number, error.code, str(error.at(origin))))
        return records, failures

    def _examine(self, path: str, steps: Sequence[Any], record: np.void) -> None:
        data = read_image_file(path)
        record["bytes"], record["file_digest"] = len(data), digest(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                header = DecodeImage.header(data)
                record["width"], record["height"] = header.size
                record["mode"], record["format"] = header.mode.encode(), (header.format or "").encode()
            except Exception:  # whatever is wrong with it, decoding says it
                pass
        try:
            image = steps[0](data, self.rng)
            pixels = as_array(image)
            record["height"], record["width"] = pixels.shape[:2]
            record["digest"] = digest(str(pixels.shape).encode(), np.ascontiguousarray(pixels))
            for step in steps[1:]:
                image = step(image, self.rng)
        except UserError as error:
            raise error.at(path) from error
        record["usable"] = True


def digest(*parts: Any) -> int:
    """A BLAKE2b of 8 bytes as a whole number: that two of a million pictures share one by chance has odds of 10^-7."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part)
    return int.from_bytes(state.digest(), "big")


def _fixed_steps(transforms: Sequence[Any]) -> list[Any]:
    """Decoding, and the resizing and cropping behind it that draws nothing."""
    first, *others = transforms
    if isinstance(first, DecodeRandomCrop):
        return [first.decode]
    steps = [first]
    for transform in others:
        if not isinstance(transform, (ResizeImage, CropImage)):
            break
        steps.append(transform)
    return steps

"""Batches from a dataset: order, workers, collation, errors that arrive."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader, DistributedBatchSampler

from ..config import SplitConfig
from ..utils.distributed import processes, rank
from ..utils.errors import UserError
from .datasets import ImageDataset
from .mixing import BatchTransform, build_batch_transforms

logger = logging.getLogger(__name__)


class Collate:
    """Stack samples into [images (N, 3, H, W), labels (N,) or (N, K)], mixing them on the way.

    Raises:
        UserError: images of different shapes.
    """

    def __init__(self, dataset: ImageDataset, batch_transforms: Sequence[BatchTransform]):
        self.dataset = dataset
        self.batch_transforms = batch_transforms

    def __call__(self, samples: list[tuple[np.ndarray, int, int]]) -> list[np.ndarray]:
        images, labels, indices = zip(*samples)
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            raise UserError(
                f"images of one batch differ in shape, {shapes[0]} and {shapes[-1]}; crop or resize to one size",
                code="data.shapes-differ",
            )
        batch, target = np.stack(images), np.asarray(labels, np.int64)
        rng = np.random.default_rng([self.dataset.seed, self.dataset.epoch, indices[0], len(indices)])
        for transform in self.batch_transforms:
            batch, target = transform(batch, target, rng)
        return [batch, target]


# Paddle's loader replaces an exception in a worker by a message of its own, or waits forever. So errors travel as
# data: a sample that is an exception, a batch that is one array of bytes with the exception, pickled.


class _CaughtErrors(paddle.io.Dataset):
    """A dataset that returns its errors."""

    def __init__(self, dataset: ImageDataset):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            return _portable(error)


class _CaughtErrorsCollate:
    """A collation that returns its errors, and those of its samples."""

    def __init__(self, collate: Collate):
        self.collate = collate

    def __call__(self, samples: list[Any]) -> list[np.ndarray]:
        errors = [sample for sample in samples if isinstance(sample, Exception)]
        if not errors:
            try:
                return self.collate(samples)
            except Exception as error:
                errors = [_portable(error)]
        return [np.frombuffer(pickle.dumps(errors[0]), np.uint8).copy()]


def _portable(error: Exception) -> Exception:
    """The exception to raise in the main process: a :class:`UserError` itself, or one with the defect's traceback."""
    if isinstance(error, UserError):
        return error
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return RuntimeError(f"a loader process failed:\n{text}")


class OrderedShardSampler(BatchSampler):
    """Batches of the samples ``rank``, ``rank + world_size``, ...: over all processes every sample once, none twice."""

    def __init__(self, num_samples: int, batch_size: int, rank: int, world_size: int):
        self.indices = range(rank, num_samples, world_size)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)


class Loader:
    """Iterable over the batches of an epoch: (images, labels) tensors, of this process's share of the images.

    In training (``shuffle`` or ``drop_last``) all processes get as many images, a few of them twice where the
    number does not divide; otherwise every image once.

    The order of an epoch and all random draws are functions of seed and epoch; see :meth:`set_epoch`.

    Args:
        dataset: the images.
        batch_size, shuffle, drop_last: as in Paddle's ``DistributedBatchSampler``.
        num_workers: processes that load; 0 loads in this one.
        use_shared_memory: how workers hand over batches.
        batch_transforms: mixing.

    Raises:
        UserError: fewer images than a batch, with ``drop_last``; while iterating, an unreadable image.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        num_workers: int = 0,
        use_shared_memory: bool = True,
        batch_transforms: Sequence[BatchTransform] = (),
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.mixes = bool(batch_transforms)
        self.batch_sampler: BatchSampler
        if shuffle or drop_last:
            self.batch_sampler = DistributedBatchSampler(dataset, batch_size, shuffle=shuffle, drop_last=drop_last)
        else:
            self.batch_sampler = OrderedShardSampler(len(dataset), batch_size, rank(), processes())
        if len(self.batch_sampler) == 0:
            raise UserError(
                f"{len(dataset)} images do not fill one batch of {batch_size}; "
                "lower batch_size of its sampler (DataLoader.Train.sampler.batch_size) or set drop_last to False there",
                code="data.too-few-images",
                where=dataset.source,
            )
        self.collate = Collate(dataset, batch_transforms)
        if num_workers > 0 and use_shared_memory:
            use_shared_memory = _shared_memory_suffices(dataset, batch_size, num_workers)
        self.workers = None
        if num_workers > 0:
            self.workers = DataLoader(
                _CaughtErrors(dataset),
                batch_sampler=self.batch_sampler,
                collate_fn=_CaughtErrorsCollate(self.collate),
                num_workers=num_workers,
                use_shared_memory=use_shared_memory,
                return_list=True,
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the draws of the next iteration."""
        self.dataset.set_epoch(epoch)
        if isinstance(self.batch_sampler, DistributedBatchSampler):
            self.batch_sampler.set_epoch(int(np.random.SeedSequence([self.dataset.seed, epoch]).generate_state(1)[0]))

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        if self.workers is None:
            for indices in self.batch_sampler:
                images, labels = self.collate([self.dataset[index] for index in indices])
                yield paddle.to_tensor(images), paddle.to_tensor(labels)
            return
        for batch in self.workers:
            if len(batch) == 1:
                raise pickle.loads(batch[0].numpy().tobytes())
            yield batch[0], batch[1]


SHARED_MEMORY = "/dev/shm"
BATCHES_PER_WORKER = 2  # that Paddle's loader keeps ready


def _shared_memory_suffices(dataset: ImageDataset, batch_size: int, num_workers: int) -> bool:
    """Whether the batches the workers keep ready fit into shared memory; where not, a bus error would follow."""
    if not os.path.isdir(SHARED_MEMORY):
        return True
    space = os.statvfs(SHARED_MEMORY)
    available = space.f_bavail * space.f_frsize
    needed = dataset[0][0].nbytes * batch_size * num_workers * BATCHES_PER_WORKER
    if needed <= available:
        return True
    logger.warning(
        "shared memory has %.0f MB free, %d loader processes need %.0f MB: handing batches over without it, which is "
        "slower; lower loader.num_workers or sampler.batch_size, or enlarge %s",
        *(available / 2**20, num_workers, needed / 2**20, SHARED_MEMORY),
    )
    return False


def build_loader(config: SplitConfig, dataset: ImageDataset, class_num: int) -> Loader:
    """The loader of ``DataLoader.Train`` or ``DataLoader.Eval``, for the device that is set.

    Raises:
        UserError: see :class:`Loader` and the batch transforms.
    """
    return Loader(
        dataset,
        config.sampler.batch_size,
        config.sampler.shuffle,
        config.sampler.drop_last,
        config.loader.num_workers,
        config.loader.use_shared_memory,
        build_batch_transforms(config.dataset.batch_transform_ops, class_num),
    )

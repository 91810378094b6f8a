"""Batches from a dataset: order, collation, and who loads them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import paddle
from paddle.io import BatchSampler, DistributedBatchSampler

from ..config import SplitConfig
from ..utils.distributed import processes, rank
from ..utils.errors import UserError
from .bad_images import BadImage, BadImages
from .datasets import ImageDataset
from .mixing import BatchTransform, build_batch_transforms
from .workers import FORK_IS_SAFE, WorkerPool

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
    """Iterable over the batches of an epoch, (images, labels) tensors of this process's share of the images.

    In training (``shuffle`` or ``drop_last``) all processes get the same number of images. Where that number does not
    divide, a few images come twice. Otherwise every image comes once.

    The order of an epoch and all that is drawn depend on seed and epoch alone; see :meth:`set_epoch`. Each iteration
    has worker processes of its own. They end with it, whether it is finished or given up.

    Args:
        dataset: the images.
        batch_size, shuffle, drop_last: as in Paddle's ``DistributedBatchSampler``.
        num_workers: processes that load; 0 loads in this one.
        use_shared_memory: workers hand images over in shared memory; otherwise through pipes, which is slower.
        batch_transforms: mixing.
        bad_images: counts images that cannot be used and are left out of their batches; without it, one ends the
            iteration.

    Raises:
        UserError: fewer images than a batch, with ``drop_last``. While iterating: an unreadable image, too many of
            them or a batch of nothing else, or a worker that was ended from outside.
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
        bad_images: BadImages | None = None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.bad_images = bad_images
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
        self.num_workers = num_workers
        self.use_shared_memory = use_shared_memory
        self.buffer_size: int | None = None
        self.start = 0
        if num_workers > 0 and not FORK_IS_SAFE:
            logger.warning("loader.num_workers: no loader processes on %s; images are loaded in this one", sys.platform)
            self.num_workers = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose order and draws of the next iteration, and the batch it starts with; none before it is read."""
        self.dataset.set_epoch(epoch)
        self.start = start
        if isinstance(self.batch_sampler, DistributedBatchSampler):
            self.batch_sampler.set_epoch(int(np.random.SeedSequence([self.dataset.seed, epoch]).generate_state(1)[0]))

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        if self.num_workers == 0:
            for indices in islice(self.batch_sampler, self.start, None):
                yield self.receive(*self.load(indices))
            return
        batches = list(self.batch_sampler)[self.start :]
        with WorkerPool(self.load, batches, self.num_workers, self._buffer_size()) as pool:
            yield from pool.batches(self.receive)

    def indices_of(self, epoch: int, iteration: int) -> list[int]:
        """Indices in the data set of the images of one batch of this process. It chooses the epoch, too."""
        self.set_epoch(epoch)
        return next(islice(self.batch_sampler, iteration, None))

    def files_of(self, epoch: int, iteration: int) -> list[str]:
        """Paths of the images of one batch of this process. It chooses the epoch, too."""
        return [self.dataset.samples[index].path for index in self.indices_of(epoch, iteration)]

    def load(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, list[BadImage]]:
        """Images (N, 3, H, W) and labels of one batch, as arrays, and what was left out of it."""
        samples, bad = self._read(indices)
        if not samples:
            raise UserError(
                f"a batch of {len(bad)} would be empty, none of its images can be used: {bad[0].message}",
                code="data.empty-batch",
            )
        images, labels = self.collate(samples)
        return images, labels, bad

    def _read(self, indices: Sequence[int]) -> tuple[list[tuple[np.ndarray, int, int]], list[BadImage]]:
        samples, bad = [], []
        for index in indices:
            try:
                samples.append(self.dataset[index])
            except UserError as error:
                if self.bad_images is None:
                    raise
                if not self.bad_images.skips(error):
                    raise self.bad_images.ending(error) from error
                bad.append(BadImage(index, str(error)))
        return samples, bad

    def receive(
        self, images: np.ndarray, labels: np.ndarray, bad: list[BadImage]
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """A batch that was loaded, as copies on the device that is set. What was left out is counted now."""
        for each in bad:
            assert self.bad_images is not None
            self.bad_images.add(each, self.dataset)
        return paddle.to_tensor(images), paddle.to_tensor(labels)

    def _buffer_size(self) -> int:
        """Bytes of the images of a batch, if all are like the first image that can be used."""
        if not self.use_shared_memory:
            return 0
        if self.buffer_size is None:
            self.buffer_size = self._image_size() * self.batch_size
        return self.buffer_size

    def _image_size(self) -> int:
        """Bytes of the first image that can be used; 0 if so many cannot that the training will stop at them."""
        tries = 1 if self.bad_images is None else self.bad_images.limit + 1
        for index in range(min(tries, len(self.dataset))):
            samples, _ = self._read([index])
            if samples:
                return samples[0][0].nbytes
        return 0


def build_loader(
    config: SplitConfig, dataset: ImageDataset, class_num: int, bad_images: BadImages | None = None
) -> Loader:
    """The loader of ``DataLoader.Train`` or ``DataLoader.Eval``, for the device that is set.

    Args:
        config: the section.
        dataset: its images.
        class_num: number of classes.
        bad_images: see :class:`Loader`. Evaluation has none: an image that is left out would change its numbers.

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
        bad_images,
    )

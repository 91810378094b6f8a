"""Batches from a dataset: order, workers, collation, errors that arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader, DistributedBatchSampler

from ..config import SplitConfig
from ..errors import UserError
from .datasets import ImageNetDataset
from .mixing import BatchTransform, build_batch_transforms
from .transforms import build_transforms


class Collate:
    """Stack samples into [images (N, 3, H, W), labels (N,) or (N, K)], mixing them on the way.

    An error is returned in place of a batch, as its text in bytes: Paddle's loader turns an exception in a
    worker into a message of its own.
    """

    def __init__(self, dataset: ImageNetDataset, batch_transforms: Sequence[BatchTransform]):
        self.dataset = dataset
        self.batch_transforms = batch_transforms

    def __call__(self, samples: list[Any]) -> list[np.ndarray]:
        errors = [sample for sample in samples if isinstance(sample, UserError)]
        if errors:
            return [np.frombuffer(str(errors[0]).encode("utf-8"), np.uint8).copy()]
        images, labels, indices = zip(*samples)
        if len({image.shape for image in images}) > 1:
            shapes = sorted({image.shape for image in images})
            text = f"images of one batch differ in shape, {shapes[0]} and {shapes[-1]}; crop or resize to one size"
            return [np.frombuffer(text.encode("utf-8"), np.uint8).copy()]
        batch, target = np.stack(images), np.asarray(labels, np.int64)
        rng = np.random.default_rng([self.dataset.seed, self.dataset.epoch, indices[0], len(indices)])
        for transform in self.batch_transforms:
            batch, target = transform(batch, target, rng)
        return [batch, target]


class _CaughtErrors(paddle.io.Dataset):
    """A dataset whose errors are returned instead of raised, for :class:`Collate`."""

    def __init__(self, dataset: ImageNetDataset):
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


class Loader:
    """Iterable over the batches of an epoch: (images, labels) tensors.

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
        dataset: ImageNetDataset,
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
        self.sampler = DistributedBatchSampler(dataset, batch_size, shuffle=shuffle, drop_last=drop_last)
        if len(self.sampler) == 0:
            raise UserError(
                f"{dataset.list_file}: {len(dataset)} images do not fill one batch of {batch_size}; "
                "lower sampler.batch_size or set sampler.drop_last to False"
            )
        self.loader = DataLoader(
            _CaughtErrors(dataset),
            batch_sampler=self.sampler,
            collate_fn=Collate(dataset, batch_transforms),
            num_workers=num_workers,
            use_shared_memory=use_shared_memory,
            return_list=True,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the draws of the next iteration."""
        self.dataset.set_epoch(epoch)
        self.sampler.set_epoch(int(np.random.SeedSequence([self.dataset.seed, epoch]).generate_state(1)[0]))

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        for batch in self.loader:
            if len(batch) == 1:
                raise UserError(batch[0].numpy().tobytes().decode("utf-8"))
            yield batch[0], batch[1]


def build_loader(config: SplitConfig, class_num: int, seed: int) -> Loader:
    """The loader of ``DataLoader.Train`` or ``DataLoader.Eval``.

    Raises:
        UserError: see :class:`ImageNetDataset`, :class:`Loader` and the transforms.
    """
    given = config.dataset
    dataset = ImageNetDataset(
        given.image_root,
        given.cls_label_path,
        build_transforms(given.transform_ops),
        class_num,
        seed,
        given.delimiter,
        given.relabel,
    )
    return Loader(
        dataset,
        config.sampler.batch_size,
        config.sampler.shuffle,
        config.sampler.drop_last,
        config.loader.num_workers,
        config.loader.use_shared_memory,
        build_batch_transforms(given.batch_transform_ops, class_num),
    )

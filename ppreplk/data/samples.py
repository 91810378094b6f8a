"""A million labelled images in little memory, which loader processes share."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np


class Sample(NamedTuple):
    """One labelled image. ``origin`` is the list file's line, or the folder, that names it."""

    path: str
    label: int
    origin: str


class Texts:
    """Many short texts one behind the other: a list of them takes several times the memory.

    >>> texts = Texts()
    >>> texts.append("a.png"), texts.append("b.png"), texts[1], len(texts)
    (None, None, 'b.png', 2)
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number], self._ends[number + 1]
        return self._bytes[start:end].decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        return len(self._ends) - 1


class Samples(Sequence[Sample]):
    """The images of a data set. A :class:`Sample` is made when it is asked for.

    Args:
        origin: the place that names an image, from the number that was appended with it.
    """

    def __init__(self, origin: Callable[[int], str]):
        self._origin = origin
        self._paths = Texts()
        self._labels = array("q")
        self._places = array("q")

    def append(self, path: str, label: int, place: int) -> None:
        """Add an image; ``place`` is what ``origin`` makes its place of."""
        self._paths.append(path)
        self._labels.append(label)
        self._places.append(place)

    @property
    def labels(self) -> np.ndarray:
        """The labels of all images, (N,) int64."""
        return np.array(self._labels, np.int64)

    def path(self, number: int) -> str:
        """The path of one image."""
        return self._paths[number]

    @overload
    def __getitem__(self, number: int) -> Sample: ...

    @overload
    def __getitem__(self, number: slice) -> list[Sample]: ...

    def __getitem__(self, number: int | slice) -> Sample | list[Sample]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        return Sample(self._paths[number], self._labels[number], self._origin(self._places[number]))

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))

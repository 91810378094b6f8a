"""Which class has which number, and how many images. Two data sets of one training must number theirs alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..utils.errors import UserError
from .scan import named

Classes = Sequence[str]


@dataclass(frozen=True)
class ClassCounts:
    """How many images each class has.

    Args:
        numbers: (K,) images of each class.
        source: list or folder that names the images, for messages.
        names: of the classes, where they have some.
    """

    numbers: np.ndarray
    source: str = ""
    names: Classes | None = None

    def balanced(self) -> np.ndarray:
        """``n / (K * n_k)`` for each class, float64: the weights under which all classes count the same.

        Raises:
            UserError: a class without images.

        >>> ClassCounts(np.array([6, 2])).balanced().tolist()
        [0.6666666666666666, 2.0]
        """
        empty = np.flatnonzero(self.numbers == 0)
        if len(empty):
            names = [str(index) if self.names is None else repr(self.names[index]) for index in empty]
            raise UserError(
                f"has no image of class {named(names)}, so balanced weights cannot be made; give a list of weights",
                code="data.empty-class",
                where=self.source,
            )
        return self.numbers.sum() / (len(self.numbers) * self.numbers)


def check_same_classes(classes: Classes | None, source: str, expected: Classes | None, expected_source: str) -> None:
    """Check that two data sets number their classes alike.

    Args:
        classes: of a data set, in the order of their numbers; None where a list has the numbers themselves.
        source: its name, for the message.
        expected, expected_source: those of the other one, the training's for example.

    Raises:
        UserError: they do not. The message names what differs.

    >>> check_same_classes(["ant", "bee"], "val", ["ant", "bee"], "train")
    """
    if classes is None or expected is None:
        _check_numbers(classes, source, expected, expected_source)
        return
    if list(classes) == list(expected):
        return
    missing, further = _without(expected, classes), _without(classes, expected)
    parts = [f"without {missing}"] if missing else []
    parts += [f"with {further} instead" if missing else f"with {further} too"] if further else []
    if not parts:
        number = next(index for index, pair in enumerate(zip(classes, expected)) if pair[0] != pair[1])
        parts = [f"in another order, class {number} is {classes[number]!r} and not {expected[number]!r}"]
    raise UserError(
        f"its classes are not those of {expected_source}, so their numbers mean others: {', '.join(parts)}",
        code="data.other-classes",
        where=source,
    )


def _without(classes: Classes, others: Classes) -> str:
    return named([repr(name) for name in classes if name not in set(others)])


def _check_numbers(classes: Classes | None, source: str, expected: Classes | None, expected_source: str) -> None:
    """Check a data set whose classes have names against a list of numbers: names that are numbers must stay them."""
    names = classes if expected is None else expected
    if names is None or not all(name.isascii() and name.isdecimal() for name in names):
        return
    moved = [f"{name} as {number}" for number, name in enumerate(names) if int(name) != number]
    if moved:
        first, second = (source, expected_source) if expected is None else (expected_source, source)
        raise UserError(
            f"{first} counts classes {named(moved)}, but {second} has labels as they are; set relabel alike for both, "
            "or use two lists or two image folders",
            code="data.other-classes",
        )

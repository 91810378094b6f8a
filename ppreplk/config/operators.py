"""Operators: the named entries of lists such as ``transform_ops``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ..utils.errors import UserError, nearest


@dataclass(frozen=True)
class Op:
    """One named entry of a list such as ``transform_ops``: what to build, with what, from where."""

    name: str
    arguments: dict
    where: str


class Ops(list):
    """A list of :class:`Op`, written in YAML as a list of single-key mappings."""


def read_ops(value: Any, where: str) -> Ops:
    """``[{Name: {argument: value}}, ...]`` to :class:`Ops`."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of operators, got {value!r}")
    ops = Ops()
    for index, entry in enumerate(value):
        place = f"{where}[{index}]"
        if isinstance(entry, str):
            entry = {entry: None}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UserError(f"{place}: expected one operator, 'Name:' with its arguments below it, got {entry!r}")
        ((name, arguments),) = entry.items()
        if not isinstance(arguments, (Mapping, type(None))):
            raise UserError(f"{place}.{name}: expected a mapping of arguments, got {arguments!r}")
        ops.append(Op(str(name), dict(arguments or {}), f"{place}.{name}"))
    return ops


def find_op(op: Op, table: Mapping[str, Callable], unserved: Mapping[str, str], kind: str) -> Callable:
    """Look ``op`` up in a table of operators.

    Raises:
        UserError: unknown, with the nearest names, or known to PaddleClas alone, with the reason.
    """
    if op.name in table:
        return table[op.name]
    if op.name in unserved:
        raise UserError(f"{op.where}: not served here: {unserved[op.name]}")
    raise UserError(f"{op.where}: unknown {kind} {op.name!r}{nearest(op.name, table)}")

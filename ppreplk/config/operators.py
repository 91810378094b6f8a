"""Operators: the named entries of lists such as ``transform_ops``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ..utils.errors import UserError, nearest
from .written import copied


@dataclass(frozen=True)
class Op:
    """One entry of such a list: the name of what to build, its arguments, and the place in the configuration."""

    name: str
    arguments: dict
    where: str


class Ops(list):
    """A list of :class:`Op`. In YAML it is a list of mappings with one key each."""


def read_ops(value: Any, where: str) -> Ops:
    """``[{Name: {argument: value}}, ...]`` as :class:`Ops`. An operator without arguments may be its name alone.

    Raises:
        UserError: not such a list.

    >>> read_ops([{"CropImage": {"size": 224}}, "ToCHWImage"], "Infer.transforms")[0]
    Op(name='CropImage', arguments={'size': 224}, where='Infer.transforms[0].CropImage')
    """
    if not isinstance(value, list):
        raise _not_ops(f"expected a list of operators, got {value!r}", where)
    ops = Ops()
    for index, entry in enumerate(value):
        place = f"{where}[{index}]"
        if isinstance(entry, str):
            entry = {entry: None}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise _not_ops(f"expected one operator, 'Name:' with its arguments below it, got {entry!r}", place)
        ((name, arguments),) = entry.items()
        if not isinstance(arguments, (Mapping, type(None))):
            raise _not_ops(f"expected a mapping of arguments, got {arguments!r}", f"{place}.{name}")
        ops.append(Op(str(name), copied(arguments or {}), f"{place}.{name}"))
    return ops


def _not_ops(message: str, where: str) -> UserError:
    return UserError(message, code="config.wrong-type", where=where)


def find_op(op: Op, table: Mapping[str, Callable], unserved: Mapping[str, str], kind: str) -> Callable:
    """The entry of ``table`` that ``op`` names.

    Args:
        op: the operator.
        table: {name: constructor}.
        unserved: {name: reason} of PaddleClas's operators that are not in the table.
        kind: what the table holds, for messages, for example ``"transform"``.

    Raises:
        UserError: the name is unknown (the nearest ones are listed), or not served (the reason is given).
    """
    if op.name in table:
        return table[op.name]
    in_a_list = bool(op.name) and op.where.endswith(op.name)  # elsewhere a key of the section has the name
    where = op.where if in_a_list else f"{op.where}.name"
    if op.name in unserved:
        raise UserError(f"not served here: {unserved[op.name]}", code="config.not-served", where=where)
    message = f"unknown {kind} {op.name!r}{nearest(op.name, table)}"
    raise UserError(message, code="config.unknown-name", where=where)

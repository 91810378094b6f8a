"""YAML to plain values, more careful than PyYAML is.

- Unquoted values are read as :mod:`~ppreplk.config.scalars` says; dates stay text.
- A key that a mapping has twice is an error. PyYAML forgets the first.
- What an anchor names is copied to each place that refers to it. With PyYAML it is one object, and a change in one
  section is a change in the others.
"""

import re
from typing import Any, Callable, Optional

import yaml

from ..utils.errors import UserError
from .scalars import BOOL, FLOAT, INT, NULLS, parse_bool, parse_int

MAX_VALUES = 100_000  # aliases of aliases can stand for more than any memory holds
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's, with other rules for unquoted values, and without the tags that configurations have no use for."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "str", "seq", "map")
    }


def _number(text: str) -> float:
    return float(text.replace(".", "") if text.lower().endswith(("inf", "nan")) else text)


def _add_rule(name: str, pattern: re.Pattern, first: str, read: Optional[Callable[[str], Any]] = None) -> None:
    """Read what ``pattern`` matches with ``read``; ``first`` are the characters that it can begin with."""
    _Loader.add_implicit_resolver(_TAG + name, pattern, [*first, ""] if pattern.match("") else list(first))
    if read is not None:

        def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
            return read(loader.construct_scalar(node))

        _Loader.add_constructor(_TAG + name, construct)


_add_rule("bool", BOOL, "yYnNtTfFoO", parse_bool)
_add_rule("int", INT, "-+0123456789", parse_int)
_add_rule("float", FLOAT, "-+0123456789.", _number)
_add_rule("null", re.compile(f"(?:{'|'.join(sorted(NULLS))})$"), "~nN")
_add_rule("merge", re.compile("<<$"), "<")


def parse_yaml(text: str, source: str, switches: frozenset = frozenset()) -> Any:
    """The value that ``text`` writes.

    Args:
        text: YAML.
        source: what it is, for messages.
        switches: keys of the outermost mapping that mean an empty mapping where nothing stands behind them.

    Raises:
        UserError: a key that is there twice, an anchor that contains itself, or too many values.
        yaml.YAMLError, ValueError, RecursionError: not YAML.

    >>> parse_yaml("{a: 010, b: 1:30, c: 2024-01-01, d: on, e: None}", "")
    {'a': 10, 'b': '1:30', 'c': '2024-01-01', 'd': True, 'e': None}
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if isinstance(node, yaml.MappingNode):
            node.value = [(key, _switched_on(key, value, switches)) for key, value in node.value]
        if _count(node, "", source, {}) > MAX_VALUES:
            message = f"its aliases (*NAME) stand for more than {MAX_VALUES} values"
            raise UserError(message, code="config.not-yaml", where=source)
        return _unshared(loader.construct_document(node))
    finally:
        loader.dispose()


def _switched_on(key: yaml.Node, value: yaml.Node, switches: frozenset) -> yaml.Node:
    empty = isinstance(value, yaml.ScalarNode) and value.tag == _TAG + "null" and not value.value
    if empty and isinstance(key, yaml.ScalarNode) and key.value in switches:
        return yaml.MappingNode(_TAG + "map", [], value.start_mark, value.end_mark)
    return value


def _count(node: yaml.Node, place: str, source: str, counts: dict[int, Optional[int]]) -> int:
    """How many values a node stands for, aliases written out. Refuses keys that are there twice.

    Args:
        node: what to count.
        place: its dotted place.
        source: see :func:`parse_yaml`.
        counts: {id of a node: its count, or None while it is counted}.
    """
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            message = f"{place}: the anchor contains itself"
            raise UserError(message, code="config.not-yaml", where=_line(source, node))
        return known
    counts[id(node)] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            total += _count(item, f"{place}[{index}]", source, counts)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[tuple, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            inner = f"{place}.{name}" if place else str(name)
            if isinstance(key, yaml.ScalarNode):
                first = seen.setdefault((key.tag, key.value), key)
                if first is not key:
                    lines = f"in line {first.start_mark.line + 1} and in line {key.start_mark.line + 1}"
                    message = f"{inner} is there twice, {lines}; keep one"
                    raise UserError(message, code="config.duplicate-key", where=source)
            total += _count(value, inner, source, counts)
    counts[id(node)] = total
    return total


def _line(source: str, node: yaml.Node) -> str:
    return f"{source}, line {node.start_mark.line + 1}"


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value

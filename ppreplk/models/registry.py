"""Model names and what builds them. A registry is a dict; a duplicate raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from paddle import nn

from ..utils.errors import UserError, nearest

Builder = Callable[..., nn.Layer]


class Entry(NamedTuple):
    """``build(**kwargs)`` makes the model; ``kwargs`` are those of ``architecture``."""

    build: Builder
    architecture: type[nn.Layer]


_ENTRIES: dict[str, Entry] = {}


def register(architecture: type[nn.Layer]) -> Callable[[Builder], Builder]:
    """Decorator: enter an entry point under its own name, as a variant of ``architecture``."""

    def enter(build: Builder) -> Builder:
        name = build.__name__
        if name in _ENTRIES:
            raise KeyError(f"a model called {name} is registered already")
        _ENTRIES[name] = Entry(build, architecture)
        return build

    return enter


def find_model(name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        UserError: there is none; the nearest names are listed.
    """
    if name not in _ENTRIES:
        raise UserError(f"unknown model {name!r}{nearest(name, _ENTRIES)}")
    return _ENTRIES[name]


def build_model(name: str, **kwargs) -> nn.Layer:
    """Build a model by name; ``kwargs`` go to its entry point.

    Raises:
        UserError: unknown name, or arguments that do not make a network.
    """
    return find_model(name).build(**kwargs)


def list_models() -> list[str]:
    """The names :func:`build_model` knows, sorted."""
    return sorted(_ENTRIES)

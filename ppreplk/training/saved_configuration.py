"""The configuration of a training in its checkpoints, and where a resumed training has another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ..config import Config, Op, parse_number
from ..utils.distributed import processes

# of Global, the keys that decide how a training goes on; the others say where and how often something is written
DECIDING = ("epochs", "update_freq", "eval_during_train", "eval_interval", "start_eval_epoch")
SECTIONS = ("Arch", "EMA", "AMP", "Loss", "Optimizer", "DataLoader", "Metric")
PASSED_OVER = (".loader.",)  # who loads the images does not change them
ABSENT = "nothing"


def as_mapping(config: Config) -> dict[str, Any]:
    """What decides a training, as nested mappings, lists, numbers and texts."""
    settings = _plain(config.Global)
    kept = {"Global": {name: settings[name] for name in DECIDING}, "processes": processes()}
    return {**kept, **{name: _plain(getattr(config, name)) for name in SECTIONS}}


def _plain(value: Any) -> Any:
    if isinstance(value, Op):
        return {value.name: _plain(value.arguments)}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def differences(saved: Mapping[str, Any], config: Config) -> list[tuple[str, Any, Any]]:
    """(key, value in the checkpoint, value here) wherever the two differ, in the order of the configuration.

    Args:
        saved: result of :func:`as_mapping` when the checkpoint was written; empty where it was not kept.
        config: of the training that goes on.
    """
    if not saved:
        return []
    before, now = dict(_flat(saved, "")), dict(_flat(as_mapping(config), ""))
    keys = [key for key in dict.fromkeys([*now, *before]) if not any(part in key for part in PASSED_OVER)]
    pairs = [(key, before.get(key, ABSENT), now.get(key, ABSENT)) for key in keys]
    return [(key.replace(".arguments.", "."), old, new) for key, old, new in pairs if _number(old) != _number(new)]


def _number(value: Any) -> Any:
    """Numbers are equal however they are written: YAML leaves ``4e-3`` a text."""
    try:
        return parse_number(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if entries is None:
        yield path, value
        return
    for key, entry in entries:
        yield from _flat(entry, f"{path}.{key}" if path else str(key))

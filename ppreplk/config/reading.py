"""Reading a YAML file, applying overrides to it, and making a :class:`Config` of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

import yaml

from ..utils.errors import UserError
from .checking import construct
from .sections import Config


def load_config(path: Union[str, Path], overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply ``Key.sub=value`` overrides, check everything.

    Raises:
        UserError: unreadable file, invalid YAML, an override that does not apply, or an invalid section.
    """
    raw = read_yaml(path)
    for text in overrides:
        override(raw, text)
    arch, settings = raw.get("Arch"), raw.get("Global")
    if isinstance(arch, dict) and isinstance(settings, dict) and settings.get("class_num") is not None:
        arch.setdefault("class_num", settings["class_num"])  # PaddleClas's older place for it
    config = construct(Config, raw, "")
    config.source = str(path)
    return config


def read_yaml(path: Union[str, Path]) -> dict:
    """A YAML file as a mapping.

    Raises:
        UserError: no such file, or not a mapping in YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file at {path}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as Global: and Arch:, got {type(raw).__name__}")
    return raw


def override(raw: dict, text: str) -> None:
    """Apply one ``Key.sub.0.name=value`` to a raw configuration; numbers index lists.

    The value is read as YAML, never evaluated as code; what is not valid YAML, or reads as a mapping
    without braces, stays text. Everything after the first ``=`` is the value.

    Raises:
        UserError: no ``=``, an index outside its list, or a path through something that has no parts.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"-o {text!r}: expected Key.sub=value, for example Global.epochs=10")
    node: Any = raw
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        place = ".".join(keys[:depth]) or "the configuration"
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise UserError(f"-o {text!r}: {place} is a list of {len(node)} entries, {key!r} is not one of them")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise UserError(f"-o {text!r}: {place} is {node!r} and has no part called {key!r}")
        if last:
            node[index] = _override_value(value)
        elif isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        node = node[index]


def _override_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        return text
    return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value

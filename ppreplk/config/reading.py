"""Reading a YAML file, applying overrides to it, and making a :class:`Config` of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

import yaml

from ..utils.errors import UserError
from .checking import construct
from .sections import Config


def load_config(path: Union[str, Path], overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply ``Key.sub=value`` overrides, and check everything.

    Raises:
        UserError: the file cannot be read or is not valid YAML, an override does not apply, or a section is wrong.
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
    """The mapping that a YAML file holds.

    Raises:
        UserError: there is no such file, it cannot be read, or it does not hold a mapping in YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no configuration file at {path}", code="config.no-file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot be read ({error.strerror or error})"
        raise UserError(message, code="config.no-file", where=str(path)) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        message = f"not valid YAML ({getattr(error, 'problem', None) or error})"
        raise UserError(message, code="config.not-yaml", where=f"{path}{line}") from error
    if not isinstance(raw, dict):
        message = f"expected sections such as Global: and Arch:, got {type(raw).__name__}"
        raise UserError(message, code="config.wrong-type", where=str(path))
    return raw


def override(raw: dict, text: str) -> None:
    """Apply one ``Key.sub.0.name=value`` to a configuration as read. A number is the index of an entry of a list.

    Everything after the first ``=`` is the value. It is read as YAML and never evaluated as code. What is not valid
    YAML stays text, and so does a mapping without braces.

    Raises:
        UserError: there is no ``=``, an index is outside its list, or the path leads through a value without parts.

    >>> raw = {"Loss": {"Train": [{"CELoss": {"epsilon": 0.1}}]}}
    >>> override(raw, "Loss.Train.0.CELoss.epsilon=0.2")
    >>> raw
    {'Loss': {'Train': [{'CELoss': {'epsilon': 0.2}}]}}
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise _bad_override(text, "expected Key.sub=value, for example Global.epochs=10")
    node: Any = raw
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        place = ".".join(keys[:depth]) or "the configuration"
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise _bad_override(text, f"{place} is a list of {len(node)} entries, {key!r} is not one of them")
            index: Any = int(key)
        elif isinstance(node, dict):
            index = key
        else:
            raise _bad_override(text, f"{place} is {node!r} and has no part called {key!r}")
        if last:
            node[index] = _override_value(value)
        elif isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        node = node[index]


def _bad_override(text: str, message: str) -> UserError:
    return UserError(message, code="config.bad-override", where=f"-o {text!r}")


def _override_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        return text
    return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value

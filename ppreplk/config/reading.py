"""Reading a YAML file, applying overrides to it, and making a :class:`Config` of it."""

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

import yaml

from ..utils.errors import UserError
from ..utils.paths import user_path
from .checking import construct
from .sections import SWITCHES, Config
from .written import Overridden, Written
from .yaml_text import parse_yaml

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def load_config(path: Union[str, Path], overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply ``Key.sub=value`` overrides, and check everything.

    Raises:
        UserError: the file cannot be read or is not valid YAML, an override does not apply, or a section is wrong.
    """
    raw = read_yaml(path, SWITCHES)
    for text in overrides:
        override(raw, text)
    arch, settings = raw.get("Arch"), raw.get("Global")
    if isinstance(arch, dict) and isinstance(settings, dict) and settings.get("class_num") is not None:
        arch.setdefault("class_num", settings["class_num"])  # PaddleClas's older place for it
    config = construct(Config, raw, "")
    config.source = str(path)
    return config


def read_yaml(path: Union[str, Path], switches: frozenset = frozenset()) -> dict:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        switches: outermost keys that mean an empty mapping where nothing stands behind them.

    Raises:
        UserError: there is no such file, it cannot be read, or it does not hold a mapping in YAML.
    """
    path = Path(user_path(str(path)))
    if not path.is_file():
        raise UserError(f"no configuration file at {path}", code="config.no-file")
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot be read ({error.strerror or error})"
        raise UserError(message, code="config.no-file", where=str(path)) from error
    text = _decoded(data, path)
    try:
        raw = parse_yaml(text, str(path), switches)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError("not valid YAML (nested too deeply)", code="config.not-yaml", where=str(path)) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise _not_yaml(error, text, path) from error
    if not isinstance(raw, dict):
        message = f"expected sections such as Global: and Arch:, got {type(raw).__name__}"
        raise UserError(message, code="config.wrong-type", where=str(path))
    return raw


def _decoded(data: bytes, path: Path) -> str:
    try:
        if data.startswith(UTF_16) or b"\0" in data[:4]:
            raise UserError("the file is in UTF-16; save it as UTF-8", code="config.not-utf-8", where=str(path))
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "not UTF-8, maybe GBK or another encoding of your system; save the file as UTF-8"
        raise UserError(message, code="config.not-utf-8", where=f"{path}, line {line}") from error


def _not_yaml(error: Exception, text: str, path: Path) -> UserError:
    mark = getattr(error, "problem_mark", None)
    number = mark.line + 1 if mark else None
    reason = getattr(error, "problem", None) or error
    if isinstance(error, yaml.reader.ReaderError):
        number, reason = text.count("\n", 0, error.position) + 1, f"{chr(error.character)!r} cannot be in YAML"
    where = f"{path}, line {number}" if number else str(path)
    return UserError(f"not valid YAML ({reason})", code="config.not-yaml", where=where)


def override(raw: dict, text: str) -> None:
    """Apply one ``Key.sub.0.name=value`` to a configuration as read. A number is the index of an entry of a list.

    Everything after the first ``=`` is the value, and is never evaluated as code. What it means depends on the type of
    the key: a text or a path is taken as it stands, see :class:`~ppreplk.config.written.Written`; lists and mappings
    are YAML.

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
    if path.strip() in SWITCHES and not value.strip():
        raise _bad_override(text, "write {} to switch it on, null to switch it off")
    written = _written(text, value)
    node: Any = raw
    for depth, key in enumerate(keys):
        place = ".".join(keys[:depth]) or "the configuration"
        index: Any = key
        if isinstance(node, list):
            if not (key.isascii() and key.isdigit()) or int(key[:9]) >= len(node):
                raise _bad_override(text, f"{place} is a list of {len(node)} entries, {key!r} is not one of them")
            index = int(key)
        elif not isinstance(node, dict):
            raise _bad_override(text, f"{place} is {node!r} and has no part called {key!r}")
        if depth < len(keys) - 1:
            node = _part(node, index)
        elif isinstance(node, Overridden):
            node.write(index, written)
        else:
            node[index] = written.value


def _part(node: Any, index: Any) -> Any:
    """The entry of a list or of a mapping. One that is missing is made, and one that is a mapping remembers text."""
    part = node[index] if isinstance(node, list) else node.get(index)
    if part is None and isinstance(node, dict):
        part = {}
    if isinstance(part, dict) and not isinstance(part, Overridden):
        part = Overridden(part)
    node[index] = part
    return part


def _bad_override(text: str, message: str) -> UserError:
    return UserError(message, code="config.bad-override", where=f"-o {text!r}")


def _written(text: str, value: str) -> Written:
    """The value of ``-o text``, as text and as YAML. No valid YAML, or a mapping without braces, stays text."""
    stripped = value.strip() or value  # a delimiter may be a space or a tab
    try:
        parsed = parse_yaml(stripped, f"-o {text!r}")
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        parsed = stripped
    if isinstance(parsed, dict) and not stripped.startswith("{"):
        parsed = stripped
    return Written(stripped, parsed)

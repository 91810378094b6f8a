"""A JSON Schema of the YAML files, from which editors complete and check them.

It is made of the declarations that a file is held against when it is read: the sections, and the signatures of the
constructors. The constructors live in other rooms, so the caller passes their tables in.

A file names its schema in a comment: ``# yaml-language-server: $schema=schema.json``.
"""

import inspect
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from ..utils.atomic import replacing
from ..utils.paths import FilePath
from . import sections
from .checking import is_sequence, signature_of
from .operators import Ops

Table = Mapping[str, Callable]
Schema = dict[str, Any]


class Kind(NamedTuple):
    """What is built by name: the title of its tables in docs/config.md, and the arguments that the program gives."""

    title: str
    given: frozenset = frozenset()


ARCH = Kind("Arch", frozenset({"class_num"}))
BATCH_TRANSFORM = Kind("batch_transform_ops", frozenset({"class_num"}))
DATASET = Kind("DataLoader: dataset", frozenset({"class_num", "report", "seed", "transforms"}))
LOSS = Kind("Loss", frozenset({"class_counts", "class_num"}))
METRIC = Kind("Metric")
OPTIMIZER = Kind("Optimizer", frozenset({"model", "schedule"}))
SCHEDULE = Kind("Optimizer.lr", frozenset({"epochs", "per_epoch"}))
TRANSFORM = Kind("transform_ops", frozenset({"image_channels"}))

# the lists of operators in sections
LISTS: dict[tuple[Callable, str], Kind] = {
    (sections.DatasetConfig, "transform_ops"): TRANSFORM,
    (sections.DatasetConfig, "batch_transform_ops"): BATCH_TRANSFORM,
    (sections.InferConfig, "transforms"): TRANSFORM,
    (sections.LossConfig, "Train"): LOSS,
    (sections.LossConfig, "Eval"): LOSS,
    (sections.MetricConfig, "Train"): METRIC,
    (sections.MetricConfig, "Eval"): METRIC,
}
# the sections that hold the arguments of what they name
NAMED: dict[Callable, Kind] = {
    sections.ArchConfig: ARCH,
    sections.DatasetConfig: DATASET,
    sections.OptimizerConfig: OPTIMIZER,
    sections.ScheduleConfig: SCHEDULE,
}
# the titles of sections in docs/config.md that are not the name of the class
TITLES: dict[Callable, str] = {
    **{section: kind.title for section, kind in NAMED.items()},
    sections.SamplerConfig: "DataLoader: sampler",
    sections.LoaderConfig: "DataLoader: loader",
    sections.PostProcessConfig: "Infer: PostProcess",
}

_FLOAT = r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"
NUMBER = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_FLOAT}(/{_FLOAT})?$"}]}
WORDS = {int: "integer", bool: "boolean", str: "string"}


def json_schema(
    operators: Mapping[str, Table], models: Table, descriptions: Optional[Mapping[str, Mapping[str, str]]] = None
) -> Schema:
    """The schema (draft 2020-12) of a configuration file.

    It is a little wider and narrower than the program. It accepts values that a constructor itself refuses, such as a
    negative learning rate, and it does not know the old names of values.

    Args:
        operators: {kind: {name: constructor}}, for the kinds ``transform_ops``, ``batch_transform_ops``, ``Loss``,
            ``Metric``, ``Optimizer``, ``Optimizer.lr`` and ``DataLoader: dataset``.
        models: {``Arch.name``: constructor of the architecture}. Other names are backbones of paddleclas, with any
            arguments.
        descriptions: {title: {key: meaning}}, see :func:`read_descriptions`.
    """
    builder = _Builder({ARCH.title: models, **operators}, descriptions or {})
    root = builder.section(sections.Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of ppreplk",
        **root,
        "$defs": {"number": NUMBER, **builder.definitions},
    }


def write_json_schema(path: Union[str, Path], schema: Schema) -> None:
    """Write ``schema`` to a file.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(Path(path)) as [partial]:
        partial.write_text(json_text(schema), encoding="utf-8")


def json_text(schema: Schema) -> str:
    """The content of the file that :func:`write_json_schema` writes."""
    return json.dumps(schema, indent=1) + "\n"


def read_descriptions(markdown: str) -> dict[str, dict[str, str]]:
    """{title of a section: {key: meaning}} of a page like docs/config.md, whose tables end with the meaning.

    >>> read_descriptions("## EMA\\n| key | takes | meaning |\\n|-|-|-|\\n| `decay` | a number | of the average |\\n")
    {'EMA': {'decay': 'of the average'}}
    """
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"^## ", markdown, flags=re.M)[1:]:
        title, _, body = block.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \|.*\| (.+?) \|$", body, flags=re.M)
        found[title] = {key: re.sub(r"\[(.+?)\]\(.+?\)", r"\1", meaning).replace("*", "") for key, meaning in rows}
    return found


class _Builder:
    """Collects the definitions that a schema refers to."""

    def __init__(self, tables: Mapping[str, Table], descriptions: Mapping[str, Mapping[str, str]]):
        self.tables = tables
        self.descriptions = descriptions
        self.definitions: dict[str, Schema] = {}

    def section(self, section: type) -> Schema:
        """A dataclass as a mapping. If it names something to build, the arguments of that stand beside its own keys."""
        own = self._mapping(section, TITLES.get(section, section.__name__.replace("Config", "")))
        if section not in NAMED:
            return own
        kind = NAMED[section]
        known: Schema = {"enum": sorted(self.tables[kind.title])}
        own["properties"]["name"].update({"anyOf": [known, {"type": "string"}]} if kind is ARCH else known)
        del own["additionalProperties"]  # that depends on the name
        default = signature_of(section)[0]["name"]
        own["allOf"] = []
        for factory, names in _by_constructor(self.tables[kind.title]).items():
            condition = {"properties": {"name": {"enum": names}}, "required": [] if default in names else ["name"]}
            own["allOf"].append({"if": condition, "then": self._named(own["properties"], kind, factory)})
        return own

    def _named(self, keys: Schema, kind: Kind, factory: Callable) -> Schema:
        """A section with the arguments of the constructor that it names, and no other keys."""
        title = f"{kind.title}: {factory.__name__}"
        whole = self._mapping(factory, title, kind.given)
        whole["properties"] = {**keys, **whole["properties"]}
        if kind is ARCH:  # a variant brings what its architecture requires
            whole["required"] = []
        return self._define(title, whole)

    def _mapping(self, factory: Callable, title: str, given: frozenset = frozenset()) -> Schema:
        """The keys of a dataclass, or those arguments of a constructor that the program does not give, as a mapping."""
        defaults, hints = signature_of(factory)
        rest = getattr(factory, "rest", None)
        skipped = {"where", rest, *given}
        properties: dict[str, Schema] = {}
        for key, default in defaults.items():
            if key in skipped:
                continue
            properties[key] = self._value(hints.get(key, Any), LISTS.get((factory, key)))
            if default not in (None, MISSING, inspect.Parameter.empty):
                properties[key]["default"] = list(default) if isinstance(default, tuple) else default
            meaning = self.descriptions.get(title, {}).get(key)
            if meaning:
                properties[key]["description"] = meaning
        for key, unserved in getattr(factory, "unserved", {}).items():
            description = f"not served: {unserved.reason}"
            properties[key] = {"enum": list(unserved.inert), "deprecated": True, "description": description}
        required = [key for key in properties if defaults.get(key) is inspect.Parameter.empty]
        summary = inspect.cleandoc(factory.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
        return {
            "description": summary,
            "type": "object" if required else ["object", "null"],
            "properties": properties,
            "required": required,
            "additionalProperties": rest is not None,
        }

    def _value(self, hint: Any, kind: Optional[Kind] = None) -> Schema:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any or hint is inspect.Parameter.empty:
            return {}
        if hint is type(None):
            return {"type": "null"}
        if hint == FilePath:
            return {"type": "string"}
        if origin is Union:
            return {"anyOf": [self._value(argument, kind) for argument in arguments]}
        if origin is typing.Literal:
            return {"enum": list(arguments)}
        if hint is Ops and kind is not None:
            return self._operators(kind)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.section(hint)
        if hint is float:
            return {"$ref": "#/$defs/number"}
        if hint in WORDS:
            return {"type": WORDS[hint]}
        if is_sequence(hint):
            return {"type": "array", "items": self._value(arguments[0] if arguments else Any)}
        if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
            return {"type": "object"}
        raise TypeError(f"no rule for the type {hint}")

    def _operators(self, kind: Kind) -> Schema:
        """A list of operators. Each is a mapping with one key; a name alone will do if no argument is required."""
        table = self.tables[kind.title]
        entries = {name: self._mapping(factory, f"{kind.title}: {name}", kind.given) for name, factory in table.items()}
        bare = sorted(name for name, entry in entries.items() if not entry["required"])
        return {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            name: self._define(f"{kind.title}: {name}", entry) for name, entry in entries.items()
                        },
                        "additionalProperties": False,
                        "minProperties": 1,
                        "maxProperties": 1,
                    },
                    {"enum": bare},
                ]
            },
        }

    def _define(self, title: str, schema: Schema) -> Schema:
        name = title.replace(": ", ".")
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}


def _by_constructor(table: Table) -> dict[Callable, list[str]]:
    """{constructor: its names, sorted}."""
    names: dict[Callable, list[str]] = {}
    for name in sorted(table):
        names.setdefault(table[name], []).append(name)
    return names

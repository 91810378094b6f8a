"""Values that were given as text behind ``-o``: they keep it until the type of their key is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .scalars import NULLS


@dataclass(frozen=True)
class Written:
    """A value as text, and as YAML reads it. The first counts for text, numbers and paths, the second for the rest."""

    text: str
    value: Any

    @property
    def is_null(self) -> bool:
        return self.text in NULLS

    def unquoted(self) -> str:
        """The text, without the quotes of YAML that may be around it."""
        if len(self.text) > 1 and self.text[0] == self.text[-1] and self.text[0] in "'\"":
            try:
                value = yaml.safe_load(self.text)
            except (yaml.YAMLError, ValueError):
                return self.text
            return value if isinstance(value, str) else self.text
        return self.text


class Overridden(dict):
    """A mapping of which values were replaced by ``-o``. It holds them as YAML reads them, and remembers their text.

    >>> section = Overridden({"epochs": 1})
    >>> section.write("output_dir", Written("007", 7))
    >>> section, as_written(section, "output_dir")
    ({'epochs': 1, 'output_dir': 7}, Written(text='007', value=7))
    """

    def __init__(self, mapping: Mapping = {}):  # noqa: B006  it is read only
        super().__init__(mapping)
        self.texts: dict[Any, Written] = dict(mapping.texts) if isinstance(mapping, Overridden) else {}

    def __or__(self, other: Mapping) -> "Overridden":  # dict's would forget the text
        whole = Overridden(self)
        whole.update(other)
        return whole

    def write(self, key: Any, written: Written) -> None:
        self[key] = written.value
        self.texts[key] = written


def as_written(mapping: Mapping, key: Any) -> Any:
    """The value of a key: :class:`Written`, if it was given as text and was not replaced since; None if missing."""
    value = mapping.get(key)
    written = mapping.texts.get(key) if isinstance(mapping, Overridden) else None
    if written is None:
        return value
    same = written.value is value or (type(written.value) is type(value) and written.value == value)
    return written if same else value


def copied(mapping: Mapping) -> dict:
    """A copy that remembers what ``mapping`` remembers."""
    return Overridden(mapping) if isinstance(mapping, Overridden) else dict(mapping)

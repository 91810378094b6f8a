"""Checking a mapping against the signature of what it configures.

One mechanism does all the checking. The signature is that of a dataclass of this package, or of the constructor of an
operator, a loss or a model elsewhere. Unknown keys, missing keys and wrong types are a
:class:`~ppreplk.utils.errors.UserError` that names the place, what was received and what fits.

Type hints are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Callable, Optional, Union

from ..utils.errors import UserError, nearest
from .operators import Ops, read_ops


def parse_number(text: str) -> float:
    """``"4e-3"`` (a string to PyYAML) or a fraction such as ``"1.0/255.0"`` to a float.

    Raises:
        ValueError: neither.
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    if float(denominator) == 0.0:
        raise ValueError(text)
    return float(numerator) / float(denominator)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return " or ".join(_describe(a) if a is not type(None) else "null" for a in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if _is_sequence(hint):
        return f"a list, each entry {_describe(arguments[0])}" if arguments else "a list"
    if is_dataclass(hint):
        return "a mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _is_sequence(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Sequence) and not issubclass(origin, str)


def _wrong(value: Any, hint: Any, where: str) -> UserError:
    received = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
    return UserError(f"{where}: expected {_describe(hint)}, got {received}")


def typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the declared type ``hint``.

    Raises:
        UserError: it does not fit; ``where`` names the place.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin is Union:
        return _typed_union(value, hint, where)
    if origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif hint is Ops:
        return read_ops(value, where)
    elif is_dataclass(hint):
        return construct(hint, value, where)
    elif hint is float:
        if isinstance(value, str):
            try:
                value = parse_number(value)
            except ValueError:
                raise _wrong(value, hint, where) from None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    elif _is_sequence(hint):
        if isinstance(value, (list, tuple)):
            entry = arguments[0] if arguments else Any
            return [typed(item, entry, f"{where}[{index}]") for index, item in enumerate(value)]
    elif isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    else:
        raise TypeError(f"{where}: no rule for the type {hint}")
    raise _wrong(value, hint, where)


def _typed_union(value: Any, hint: Any, where: str) -> Any:
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    if value is None and len(choices) < len(typing.get_args(hint)):
        return None
    if len(choices) == 1:
        return typed(value, choices[0], where)  # its own message is the more precise one
    for choice in choices:
        try:
            return typed(value, choice, where)
        except UserError:
            continue
    raise _wrong(value, hint, where)


def construct(factory: Callable, mapping: Any, where: str, **given: Any) -> Any:
    """Call ``factory`` with the entries of ``mapping``, checked against its signature.

    Args:
        factory: a class or function with type hints.
        mapping: {name: value} from a configuration; None is an empty one.
        where: the place in the configuration, for messages; passed on where ``factory`` has a ``where``.
        given: further arguments, from the program; those ``factory`` does not take are left out.

    Raises:
        UserError: unknown, missing or ill-typed entries, or an entry the factory itself refuses.
    """
    arguments = check_arguments(factory, mapping, where, given)
    try:
        return factory(**arguments)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error


def check_arguments(
    factory: Callable, mapping: Any, where: str, given: Optional[Mapping[str, Any]] = None, complete: bool = True
) -> dict[str, Any]:
    """The keyword arguments :func:`construct` would call ``factory`` with.

    Without ``complete``, required ones may be missing: something else fills them in.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise _wrong(mapping, dict, where)
    signature, hints = signature_of(factory)
    unserved: Mapping[str, Unserved] = getattr(factory, "unserved", {})
    rest: Optional[str] = getattr(factory, "rest", None)
    arguments = {name: value for name, value in {"where": where, **(given or {})}.items() if name in signature}
    if rest is not None:
        arguments[rest] = {}
    settable = set(signature) - set(arguments)
    for name, value in mapping.items():
        place = f"{where}.{name}" if where else str(name)
        if name in unserved:
            unserved[name].check(value, place)
        elif name not in settable and rest is not None:
            arguments[rest][name] = value
        elif name not in settable:
            raise UserError(f"{place}: unknown key{nearest(name, settable)}")
        else:
            arguments[name] = typed(value, hints.get(name, Any), place)
    missing = [name for name, default in signature.items() if default is inspect.Parameter.empty]
    for name in missing:
        if complete and name not in arguments:
            raise UserError(f"{where + '.' if where else ''}{name}: missing; it has no default")
    return arguments


def signature_of(factory: Callable) -> tuple[dict[str, Any], dict[str, Any]]:
    """{parameter: default or ``Parameter.empty``} and {parameter: type hint}."""
    if is_dataclass(factory):
        hints = typing.get_type_hints(factory)
        required = {
            f.name: inspect.Parameter.empty if f.default is MISSING and f.default_factory is MISSING else f.default
            for f in fields(factory)
            if f.init
        }
        return required, hints
    parameters = inspect.signature(factory).parameters.values()
    function = factory.__init__ if inspect.isclass(factory) else factory
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default for p in named}, typing.get_type_hints(function)


@dataclass(frozen=True)
class Unserved:
    """A key of PaddleClas's that this package knows and does not serve.

    ``inert`` are the values that ask for nothing and are therefore accepted.
    """

    reason: str
    inert: tuple = (None, False)

    def check(self, value: Any, where: str) -> None:
        if value not in self.inert:
            raise UserError(f"{where}: {value!r} is not served here: {self.reason}")

"""Checking a mapping against the signature of what it configures.

One mechanism does all the checking. The signature is that of a dataclass of this package, or of the constructor of an
operator, a loss or a model elsewhere. Unknown keys, missing keys and wrong types are a
:class:`~ppreplk.utils.errors.UserError` that names the place, what was received and what fits.

A class may say three things more about its keys, in attributes of its own:

- ``unserved``: {key: :class:`Unserved`}, PaddleClas's keys that are refused with a reason;
- ``renamed``: {key: {old value: new value}}, values that are still read under their old name;
- ``rest``: the name of the parameter that collects all other keys, unchecked.

Why not pydantic (tried with 2.14): most of what is checked are constructors elsewhere, plain signatures in which
``float`` must also read ``4e-3`` and ``1.0/255.0``. Their hints have to be rewritten and made into models. Pydantic's
errors have to be translated, to find the nearest key and to leave out the branches of unions. The sections lost 61
lines of code and this module gained 56 (330 lines instead of 335), and these messages were still worse: a limit read
"expected a whole number, got 0", the place of an entry in a list of operators lost its dots, a value under its old name
was logged without its section, and the keys that are not served stood among the valid ones. ``import pydantic`` takes
0.16 s.

Type hints are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import difflib
import inspect
import logging
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Callable, Optional, Union

from ..utils.errors import UserError, nearest
from ..utils.paths import FilePath, user_path
from .operators import Ops, read_ops
from .scalars import parse_bool, parse_int, parse_number
from .written import Overridden, Written, as_written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unserved:
    """A key of PaddleClas's that this package knows and does not serve.

    The values in ``inert`` ask for nothing and are accepted.
    """

    reason: str
    inert: tuple = (None, False)

    def check(self, value: Any, where: str) -> None:
        """Refuse a value that asks for something.

        Raises:
            UserError: gives the reason.
        """
        if value not in self.inert:
            raise UserError(f"{value!r} is not served here: {self.reason}", code="config.not-served", where=where)


def construct(factory: Callable, mapping: Any, where: str, **given: Any) -> Any:
    """Call ``factory`` with the entries of ``mapping``, checked against its signature.

    Args:
        factory: a class or function with type hints.
        mapping: {name: value} from a configuration; None is an empty one.
        where: the place in the configuration, for messages; passed on where ``factory`` has a ``where``.
        given: further arguments, from the program; those ``factory`` does not take are left out.

    Raises:
        UserError: an unknown, missing or ill-typed entry, or one that the factory itself refuses. In the latter case
            the code is the factory's. If its ``where`` is the name of an argument, it becomes part of the dotted place.

    >>> from ppreplk.config import LoaderConfig
    >>> construct(LoaderConfig, {"num_workers": 4}, "DataLoader.Train.loader")
    LoaderConfig(num_workers=4, use_shared_memory=True)
    """
    arguments = check_arguments(factory, mapping, where, given)
    try:
        return factory(**arguments)
    except UserError as error:
        if error.where in arguments:
            message = str(error).removeprefix(f"{error.where}: ")
            raise UserError(message, code=error.code, where=_join(where, error.where)) from error
        if str(error).startswith(where):  # it knows its place
            raise
        raise error.at(where) from error


def check_arguments(
    factory: Callable, mapping: Any, where: str, given: Optional[Mapping[str, Any]] = None, complete: bool = True
) -> dict[str, Any]:
    """The keyword arguments that :func:`construct` calls ``factory`` with.

    Args:
        factory, mapping, where, given: see :func:`construct`.
        complete: whether arguments without a default must be there. If not, something else fills them in.

    Raises:
        UserError: an unknown, missing or ill-typed entry.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise _wrong_type(mapping, dict, where)
    signature, hints = signature_of(factory)
    unserved: Mapping[str, Unserved] = getattr(factory, "unserved", {})
    renamed: Mapping[str, Mapping[str, str]] = getattr(factory, "renamed", {})
    rest: Optional[str] = getattr(factory, "rest", None)
    arguments = {name: value for name, value in {"where": where, **(given or {})}.items() if name in signature}
    if rest is not None:
        arguments[rest] = Overridden() if isinstance(mapping, Overridden) else {}
    settable = set(signature) - set(arguments)
    for name in mapping:
        value = as_written(mapping, name)
        place = _join(where, name)
        if name in unserved:
            unserved[name].check(mapping[name], place)
        elif name in settable:
            value = _new_name(value, renamed.get(name, {}), place)
            arguments[name] = typed(value, hints.get(name, Any), place)
        elif rest is not None:
            _put(arguments[rest], name, value)
        else:
            raise UserError(f"unknown key{nearest(name, settable)}", code="config.unknown-key", where=place)
    for name, default in signature.items():
        if complete and default is inspect.Parameter.empty and name not in arguments:
            message = f"missing; it has no default{_similar(name, arguments[rest] if rest else {})}"
            raise UserError(message, code="config.missing-key", where=_join(where, name))
    return arguments


def _similar(name: str, others: Mapping) -> str:
    """The end of a message about a missing key: a key that nothing has checked yet and that may be it, misspelt."""
    folded = {str(other).strip().lower(): other for other in others}
    close = difflib.get_close_matches(name, folded, n=1)
    return f"; is {folded[close[0]]!r} it?" if close else ""


def argument(mapping: Mapping[str, Any], name: str, hint: Any, where: str) -> Any:
    """One entry of a mapping as the declared type ``hint``; a missing one is None.

    Raises:
        UserError: it does not fit.
    """
    return typed(as_written(mapping, name), hint, _join(where, name))


def _put(mapping: dict, name: Any, value: Any) -> None:
    if isinstance(mapping, Overridden) and isinstance(value, Written):
        mapping.write(name, value)
    else:
        mapping[name] = value


def _join(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _new_name(value: Any, renamed: Mapping[str, str], where: str) -> Any:
    """``value``, or what replaced it; a line in the log says so."""
    old = value.text if isinstance(value, Written) else value
    if not isinstance(old, str) or old not in renamed:
        return value
    logger.warning("%s: %r is now called %r", where, old, renamed[old])
    return renamed[old]


def signature_of(factory: Callable) -> tuple[dict[str, Any], dict[str, Any]]:
    """{parameter: default or ``Parameter.empty``} and {parameter: type hint}.

    The default of a dataclass's field with a ``default_factory`` is ``dataclasses.MISSING``.
    """
    if is_dataclass(factory):
        hints = typing.get_type_hints(factory, include_extras=True)
        defaults = {
            f.name: inspect.Parameter.empty if f.default is MISSING and f.default_factory is MISSING else f.default
            for f in fields(factory)
            if f.init
        }
        return defaults, hints
    parameters = inspect.signature(factory).parameters.values()
    function = factory.__init__ if inspect.isclass(factory) else factory
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default for p in named}, typing.get_type_hints(function, include_extras=True)


def typed(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the declared type ``hint``.

    A value given as text (:class:`~ppreplk.config.written.Written`) is read as that type.

    Raises:
        UserError: it does not fit; ``where`` names the place.

    >>> typed(["1.0/2.0", "4e-3", 1], list[float], "mean")
    [0.5, 0.004, 1.0]
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Written):
        if origin is not Union and origin is not typing.Literal and hint not in _READ:
            return typed(value.value, hint, where)
        return _typed_text(value, hint, where)
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin is Union:
        return _typed_union(value, hint, where)
    if origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise _wrong_type(value, hint, where, "config.bad-value")
    if hint is Ops:
        return read_ops(value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return construct(hint, value, where)
    if hint is float:
        return _typed_float(value, where)
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) >= 2**63:  # nothing can be so many, and arithmetic elsewhere has 64 bits
                raise UserError("the number is too large", code="config.bad-value", where=where)
            return value
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    elif hint == FilePath:
        if isinstance(value, str):
            return _typed_path(value, where)
    elif is_sequence(hint):
        if isinstance(value, (list, tuple)):
            entry = arguments[0] if arguments else Any
            return [typed(item, entry, f"{where}[{index}]") for index, item in enumerate(value)]
    elif isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    else:
        raise TypeError(f"{where}: no rule for the type {hint}")
    raise _wrong_type(value, hint, where)


def _typed_text(written: Written, hint: Any, where: str) -> Any:
    """The value that ``written`` has for a hint in ``_READ``, or for a ``Union`` or ``Literal``."""
    if typing.get_origin(hint) is Union:
        return _typed_union(written, hint, where)
    if typing.get_origin(hint) is typing.Literal:
        for choice in typing.get_args(hint):
            try:
                if _READ[type(choice)](written) == choice:
                    return choice
            except ValueError:
                continue
        raise _wrong_type(written, hint, where, "config.bad-value")
    if written.is_null:
        raise _wrong_type(None, hint, where)
    try:
        value = _READ[hint](written)
    except ValueError:
        raise _wrong_type(written, hint, where) from None
    return typed(value, hint, where)


def _typed_path(value: str, where: str) -> str:
    try:
        return user_path(value)
    except UserError as error:
        raise error.at(where) from error


def _typed_union(value: Any, hint: Any, where: str) -> Any:
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    nothing = value.is_null if isinstance(value, Written) else value is None
    if nothing and len(choices) < len(typing.get_args(hint)):
        return None
    if len(choices) == 1:
        return typed(value, choices[0], where)  # its own message is the more precise one
    for choice in sorted(choices, key=lambda choice: choice is str):  # any value given as text fits that
        try:
            return typed(value, choice, where)
        except UserError:
            continue
    raise _wrong_type(value, hint, where)


def _typed_float(value: Any, where: str) -> float:
    number = value
    if isinstance(value, str):
        try:
            number = parse_number(value)
        except ValueError:
            raise _wrong_type(value, float, where) from None
    if isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= sys.float_info.max:
        return float(number)
    raise _wrong_type(value, float, where)


# how a value given as text is read
_READ: dict[Any, Callable[[Written], Any]] = {
    str: Written.unquoted,
    FilePath: Written.unquoted,
    bool: lambda written: parse_bool(written.text),
    int: lambda written: parse_int(written.text),
    float: lambda written: parse_number(written.text),
}
_WORDS = {
    FilePath: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
}


def describe(hint: Any) -> str:
    """What fits a type hint, in words.

    >>> describe(Union[int, Sequence[int]])
    'a whole number or a list, each entry a whole number'
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return " or ".join(describe(a) if a is not type(None) else "null" for a in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if is_sequence(hint):
        return f"a list, each entry {describe(arguments[0])}" if arguments else "a list"
    if is_dataclass(hint):
        return "a mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def is_sequence(hint: Any) -> bool:
    """Whether a type hint is that of a list."""
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Sequence) and not issubclass(origin, str)


def _wrong_type(value: Any, hint: Any, where: str, code: str = "config.wrong-type") -> UserError:
    if value is None:
        received = "nothing"
    elif isinstance(value, Written):
        received = repr(value.text)
    else:
        received = f"{value!r} ({type(value).__name__})"
    accepted = typing.get_args(hint) if typing.get_origin(hint) is Union else (hint,)
    if isinstance(value, (bool, int, float)) and (str in accepted or FilePath in accepted):
        received += "; in quotes it is text"
    return UserError(f"expected {describe(hint)}, got {received}", code=code, where=where)

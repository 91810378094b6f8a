"""A pickle machine that builds plain containers and calls only what it is handed.

A pickle is a program: ``pickle.load`` imports and calls whatever it names, so a checkpoint from a stranger can
run any code. This machine knows the instructions that weights need. Every name is looked up in a table; one
that is not there is refused before anything is called. Long byte strings stay pieces of the file.

Source: the instruction set as the standard library's ``pickletools`` describes it, protocols 2 to 5.
"""

from __future__ import annotations

import collections
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from ..utils.errors import UserError
from .pieces import Piece

# One step builds 250 bytes at most; RepLKNet-XL with averages and an optimizer's state takes 90,000 steps.
MAX_STEPS = 2_000_000
MAX_COPIED = 256  # bytes up to this length are read at once, longer ones stay pieces of the file
KEYS = (str, int, float, bool, bytes, type(None))


@runtime_checkable
class Buildable(Protocol):
    """An object whose state a pickle may set."""

    def build(self, state: Any) -> None:
        """Take the state, or refuse it with a :class:`UserError`."""


class Call:
    """A function a pickle may call with positional arguments."""

    def __init__(self, function: Callable):
        self.function = function


class Refused:
    """A name whose objects are not read, and the reason."""

    def __init__(self, reason: str):
        self.reason = reason


class Inert:
    """Stands for an object around the weights: it takes any arguments, state and items, and keeps nothing."""

    def __init__(self, *_: Any):
        pass

    def build(self, state: Any) -> None:
        """Ignore the object's state."""


def _inert(*places: str) -> dict[tuple[str, str], Call]:
    split = [place.partition(":") for place in places]
    return {(module, name): Call(Inert) for module, _, names in split for name in names.split()}


INERT = _inert(
    "argparse:Namespace",
    "types:SimpleNamespace",
    "collections:defaultdict Counter deque",
    "datetime:date datetime time timedelta timezone",
    "pathlib:Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "pathlib._local:Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "builtins:set frozenset bytearray complex int float bool str bytes list dict",
    "__builtin__:set frozenset bytearray complex int float bool str bytes list dict",
    "numpy.core.multiarray:scalar",
    "numpy._core.multiarray:scalar",
    "torch:Size device float16 float32 float64 bfloat16 uint8 int8 int16 int32 int64 bool",
    "addict.addict:Dict",
    "easydict:EasyDict",
    "mmcv.utils.config:Config ConfigDict",
    "mmengine.config.config:Config ConfigDict",
    "yacs.config:CfgNode",
)
INERT_PACKAGES = ("torch.optim.",)  # optimizers and schedules saved as objects

CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Call(lambda: collections.OrderedDict()),  # a copy of something could be large
    ("builtins", "tuple"): Call(lambda entries: entries),
    ("__builtin__", "tuple"): Call(lambda entries: entries),
}


def shown(text: Any) -> str:
    """A text of a stranger's file for a message: short, printable, on one line."""
    return repr(str(text)[:80])[1:-1]


def unpickle(
    data: Piece,
    names: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """Run one pickle.

    Args:
        data: the bytes the pickle lies in.
        names: {(module, name): object} the pickle may refer to; a :class:`Call` may be called, a
            :class:`Refused` says why not. The names in ``INERT`` and ``CONTAINERS`` come with the machine.
        persistent: gives the object behind a persistent id; without it, such ids are refused.
        start: where the pickle begins.

    Returns:
        The object, and where the pickle ends. A :class:`Buildable` object gets its state through ``build``.

    Raises:
        UserError: the pickle is broken, asks for something no weights need, or is far too long.
    """
    machine = _Machine(data, start, {**INERT, **CONTAINERS, **names}, persistent)
    try:
        return machine.run(), machine.position
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, struct.error) as error:
        raise UserError(
            f"a broken pickle ({type(error).__name__}: {error}); download it again", code="checkpoints.broken"
        ) from error


class _Machine:
    """Stack, memo and position of one running pickle."""

    def __init__(self, data: Piece, position: int, names: Mapping, persistent: Callable[[Any], Any] | None):
        self.data = data
        self.position = position
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == pickle.STOP:
                return self.stack.pop()
            operation = OPERATIONS.get(code)
            if operation is None:
                raise UserError(
                    f"refused, its pickle has the instruction {code!r}, which no weights need",
                    code="checkpoints.refused",
                )
            operation(self)
        raise UserError(f"refused, its pickle takes more than {MAX_STEPS} steps", code="checkpoints.refused")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        data = self.data.read(self.position, count)
        self.position += count
        return data

    def integer(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def items(self) -> list[Any]:
        """What lies above the last mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def text(self, width: int, encoding: str = "utf-8") -> None:
        self.push(str(self.take(self.integer(width)), encoding))

    def raw(self, width: int) -> None:
        count = self.integer(width)
        if count <= MAX_COPIED:
            self.push(self.take(count))
        else:
            self.push(self.data.part(self.position, count))
            self.position += count

    def line(self) -> str:
        left = len(self.data) - self.position
        line = self.data.read(self.position, min(left, MAX_COPIED)).partition(b"\n")[0]
        self.take(len(line) + 1)
        return line.decode("utf-8")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UserError("refused, it names something by other means than a text", code="checkpoints.refused")
        found = self.names.get((module, name))
        if found is None and f"{module}.".startswith(INERT_PACKAGES):
            found = Call(Inert)
        if found is None:
            raise UserError(
                f"refused, it names {shown(module)}.{shown(name)}, which no weights need; nothing of it ran",
                code="checkpoints.refused",
            )
        if isinstance(found, Refused):
            raise UserError(f"refused, it names {module}.{name}: {found.reason}", code="checkpoints.unsupported")
        self.push(found)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise UserError(f"refused, it calls a {type(function).__name__}", code="checkpoints.refused")
        self.push(function.function(*arguments))

    def call_with_keywords(self) -> None:
        function = self.stack[-3]
        del self.stack[-3:]
        if not isinstance(function, Call) or function.function is not Inert:
            raise UserError("refused, it calls a function with keywords", code="checkpoints.refused")
        self.push(Inert())

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, collections.OrderedDict):
            return  # attributes of a dict: PyTorch keeps version numbers there
        if not isinstance(target, Buildable):
            kind = "function" if isinstance(target, Call) else type(target).__name__
            raise UserError(f"refused, it sets the state of a {kind}", code="checkpoints.refused")
        target.build(state)

    def identify(self) -> None:
        if self.persistent is None:
            raise UserError("refused, it refers to storage outside the file", code="checkpoints.refused")
        self.push(self.persistent(self.stack.pop()))

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise UserError(f"refused, it appends to a {type(target).__name__}", code="checkpoints.refused")

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if len(values) % 2:
            raise UserError("a broken pickle: a key without its value", code="checkpoints.broken")
        if isinstance(target, dict):
            # other keys, of objects around the weights, need not be hashed: that can take for ever
            target.update((k if isinstance(k, KEYS) else Inert(), v) for k, v in zip(values[::2], values[1::2]))
        elif not isinstance(target, Inert):
            raise UserError(f"refused, it sets items of a {type(target).__name__}", code="checkpoints.refused")

    def pair(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def group(self, count: int) -> None:
        values = tuple(self.stack[len(self.stack) - count :])
        if len(values) != count:
            raise UserError("a broken pickle: its stack is empty", code="checkpoints.broken")
        del self.stack[len(self.stack) - count :]
        self.push(values)

    def dictionary(self) -> None:
        values = self.items()
        self.push({})
        self.update(values)

    def frozen_set(self) -> None:
        self.items()
        self.push(Inert())

    def global_line(self) -> None:
        module = self.line()
        self.name(module, self.line())

    def global_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)


Operation = Callable[[_Machine], Any]
OPERATIONS: dict[bytes, Operation] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: _Machine.mark,
    pickle.POP: lambda m: m.stack.pop(),
    pickle.POP_MARK: _Machine.items,
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.integer(4, signed=True)),
    pickle.BININT1: lambda m: m.push(m.integer(1)),
    pickle.BININT2: lambda m: m.push(m.integer(2)),
    pickle.LONG1: lambda m: m.push(m.integer(m.integer(1), signed=True)),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    pickle.SHORT_BINUNICODE: lambda m: m.text(1),
    pickle.BINUNICODE: lambda m: m.text(4),
    pickle.BINUNICODE8: lambda m: m.text(8),
    pickle.SHORT_BINSTRING: lambda m: m.text(1, "latin1"),
    pickle.BINSTRING: lambda m: m.text(4, "latin1"),
    pickle.SHORT_BINBYTES: lambda m: m.raw(1),
    pickle.BINBYTES: lambda m: m.raw(4),
    pickle.BINBYTES8: lambda m: m.raw(8),
    pickle.BYTEARRAY8: lambda m: m.raw(8),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.group(1),
    pickle.TUPLE2: lambda m: m.group(2),
    pickle.TUPLE3: lambda m: m.group(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.items())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.items()),
    pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.items()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: _Machine.dictionary,
    pickle.SETITEM: lambda m: m.update(m.pair()),
    pickle.SETITEMS: lambda m: m.update(m.items()),
    pickle.EMPTY_SET: lambda m: m.push(Inert()),
    pickle.ADDITEMS: lambda m: m.extend(m.items()),
    pickle.FROZENSET: _Machine.frozen_set,
    pickle.BINPUT: lambda m: m.put(m.integer(1)),
    pickle.LONG_BINPUT: lambda m: m.put(m.integer(4)),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.integer(1)]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.integer(4)]),
    pickle.GLOBAL: _Machine.global_line,
    pickle.STACK_GLOBAL: _Machine.global_stack,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.NEWOBJ_EX: _Machine.call_with_keywords,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.identify,
}

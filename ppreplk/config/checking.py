"""PaddleClas-schema YAML to a checked, typed configuration.

One mechanism does all the checking: a mapping is held against the *signature* of what it configures, a
dataclass here or the constructor of an operator, a loss, a model elsewhere. Unknown keys, missing keys and
wrong types are a :class:`~ppreplk.utils.errors.UserError` that names the place, what was received and what fits.

Type hints in this module are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import inspect
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Callable, ClassVar, Optional, Union

import yaml

from ..utils.errors import UserError, nearest

# --------------------------------------------------------------------------------------------------------
# Values


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


@dataclass(frozen=True)
class Op:
    """One named entry of a list such as ``transform_ops``: what to build, with what, from where."""

    name: str
    arguments: dict
    where: str


class Ops(list):
    """A list of :class:`Op`, written in YAML as a list of single-key mappings."""


def read_ops(value: Any, where: str) -> Ops:
    """``[{Name: {argument: value}}, ...]`` to :class:`Ops`."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of operators, got {value!r}")
    ops = Ops()
    for index, entry in enumerate(value):
        place = f"{where}[{index}]"
        if isinstance(entry, str):
            entry = {entry: None}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UserError(f"{place}: expected one operator, 'Name:' with its arguments below it, got {entry!r}")
        ((name, arguments),) = entry.items()
        if not isinstance(arguments, (Mapping, type(None))):
            raise UserError(f"{place}.{name}: expected a mapping of arguments, got {arguments!r}")
        ops.append(Op(str(name), dict(arguments or {}), f"{place}.{name}"))
    return ops


def find_op(op: Op, table: Mapping[str, Callable], unserved: Mapping[str, str], kind: str) -> Callable:
    """Look ``op`` up in a table of operators.

    Raises:
        UserError: unknown, with the nearest names, or known to PaddleClas alone, with the reason.
    """
    if op.name in table:
        return table[op.name]
    if op.name in unserved:
        raise UserError(f"{op.where}: not served here: {unserved[op.name]}")
    raise UserError(f"{op.where}: unknown {kind} {op.name!r}{nearest(op.name, table)}")


# --------------------------------------------------------------------------------------------------------
# Sections


@dataclass
class GlobalConfig:
    """``Global``: the run as a whole. Names and defaults are PaddleClas's; the last seven keys are ours."""

    epochs: int = 300
    checkpoints: Optional[str] = None
    pretrained_model: Optional[str] = None
    output_dir: str = "./output/"
    device: typing.Literal["cpu", "gpu", "xpu", "npu", "mlu"] = "gpu"
    save_interval: int = 1
    eval_during_train: bool = True
    eval_interval: int = 1
    start_eval_epoch: int = 0
    print_batch_step: int = 10
    use_visualdl: bool = False
    print_mem_info: bool = False
    image_shape: list[int] = field(default_factory=lambda: [3, 224, 224])
    save_inference_dir: str = "./inference"
    update_freq: int = 1
    seed: Optional[int] = None
    class_num: Optional[int] = None
    num_threads: Optional[int] = None
    builtin_dataset: Optional[typing.Literal["digits"]] = None
    export_tolerance: float = 1e-4
    export_tolerance_bf16: float = 5e-2
    export_runtime: typing.Literal["native", "fast"] = "native"
    export_depthwise: typing.Literal["native", "compiled"] = "native"
    global_batch: Optional[int] = None

    unserved: ClassVar[dict[str, Unserved]] = {
        "to_static": Unserved("training runs in dynamic graph; export makes the static one"),
        "use_dali": Unserved("images are decoded on the CPU by the loader"),
        "train_mode": Unserved("only the ordinary supervised loop exists"),
        "eval_mode": Unserved("only classification is evaluated", (None, "classification")),
        "uniform_output_enabled": Unserved("checkpoints lie side by side in output_dir"),
        "export_for_fd": Unserved("inference.yml is always written beside an exported program", (None, False, True)),
        "log_ranks": Unserved("one process logs", (None, 0, "0")),
    }

    def __post_init__(self) -> None:
        for name in ("epochs", "eval_interval", "print_batch_step", "update_freq"):
            if getattr(self, name) < 1:
                raise UserError(f"Global.{name}: must be at least 1, got {getattr(self, name)}")
        if self.num_threads is not None and self.num_threads < 1:
            raise UserError(f"Global.num_threads: must be at least 1, got {self.num_threads}")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise UserError(f"Global.image_shape: expected [channels, height, width], got {self.image_shape}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"Global.seed: must not be negative, got {self.seed}")


@dataclass
class EMAConfig:
    """``EMA``: exponential moving average of the weights; the section's presence switches it on."""

    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.0 < self.decay < 1.0:
            raise UserError(f"EMA.decay: must lie between 0 and 1, got {self.decay}")


@dataclass
class AMPConfig:
    """``AMP``: mixed precision; the section's presence switches it on unless ``use_amp`` is False."""

    use_amp: bool = True
    level: typing.Literal["O1", "O2"] = "O1"
    dtype: typing.Literal["float16", "bfloat16"] = "float16"
    scale_loss: float = 1.0
    use_dynamic_loss_scaling: bool = False
    use_fp16_test: bool = False
    use_promote: bool = False

    def __post_init__(self) -> None:
        if self.scale_loss <= 0:
            raise UserError(f"AMP.scale_loss: must be positive, got {self.scale_loss}")


# Sections that name something to build have a ``rest``: their other keys are collected there unchecked, for the
# constructor of that thing to check.


@dataclass
class ArchConfig:
    """``Arch``: the network, and the arguments of its constructor."""

    where: str
    arguments: dict
    name: str
    class_num: int = 1000
    infer_add_softmax: bool = True
    use_sync_bn: bool = False

    rest: ClassVar[str] = "arguments"
    unserved: ClassVar[dict[str, Unserved]] = {
        "pretrained": Unserved("nothing is downloaded; use Global.pretrained_model"),
    }


@dataclass
class LossConfig:
    """``Loss``: criteria of training and evaluation, as lists of ``Name: {weight: ...}``."""

    Train: Ops
    Eval: Ops = field(default_factory=Ops)


@dataclass
class ScheduleConfig:
    """``Optimizer.lr``: the schedule and its arguments."""

    where: str
    arguments: dict
    name: str = "ConstLR"

    rest: ClassVar[str] = "arguments"


@dataclass
class OptimizerConfig:
    """``Optimizer``: name, learning rate, and the arguments of the named optimizer."""

    where: str
    arguments: dict
    name: str
    lr: ScheduleConfig

    rest: ClassVar[str] = "arguments"


@dataclass
class SamplerConfig:
    """``DataLoader.*.sampler``."""

    batch_size: int
    name: typing.Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    drop_last: bool = False
    shuffle: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass
class LoaderConfig:
    """``DataLoader.*.loader``."""

    num_workers: int = 0
    use_shared_memory: bool = True

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise UserError(f"num_workers must not be negative, got {self.num_workers}")


@dataclass
class DatasetConfig:
    """``DataLoader.*.dataset``: which images, and what is done to them."""

    where: str
    arguments: dict
    name: str
    transform_ops: Ops
    batch_transform_ops: Optional[Ops] = None

    rest: ClassVar[str] = "arguments"


@dataclass
class SplitConfig:
    """``DataLoader.Train`` or ``DataLoader.Eval``."""

    dataset: DatasetConfig
    sampler: SamplerConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)


@dataclass
class DataLoaderConfig:
    """``DataLoader``."""

    Train: Optional[SplitConfig] = None
    Eval: Optional[SplitConfig] = None


@dataclass
class PostProcessConfig:
    """``Infer.PostProcess``: how many classes to print and what they are called."""

    name: typing.Literal["Topk"] = "Topk"
    topk: int = 5
    class_id_map_file: Optional[str] = None
    delimiter: Optional[str] = None

    def __post_init__(self) -> None:
        if self.topk < 1:
            raise UserError(f"topk must be at least 1, got {self.topk}")


@dataclass
class InferConfig:
    """``Infer``: prediction on images without labels."""

    transforms: Ops
    infer_imgs: Optional[str] = None
    infer_list: Optional[str] = None
    batch_size: int = 10
    PostProcess: PostProcessConfig = field(default_factory=PostProcessConfig)

    unserved: ClassVar[dict[str, Unserved]] = {"save_dir": Unserved("use --output FILE.json or FILE.csv")}

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass
class MetricConfig:
    """``Metric``: what is measured in training and evaluation."""

    Train: Ops = field(default_factory=Ops)
    Eval: Ops = field(default_factory=Ops)


@dataclass
class Config:
    """A whole configuration. Sections a command does not need may be missing."""

    Global: GlobalConfig
    Arch: ArchConfig
    EMA: Optional[EMAConfig] = None
    AMP: Optional[AMPConfig] = None
    Loss: Optional[LossConfig] = None
    Optimizer: Optional[OptimizerConfig] = None
    DataLoader: DataLoaderConfig = field(default_factory=DataLoaderConfig)
    Infer: Optional[InferConfig] = None
    Metric: MetricConfig = field(default_factory=MetricConfig)

    unserved: ClassVar[dict[str, Unserved]] = {
        "profiler_options": Unserved("use Paddle's own profiler"),
        "Slim": Unserved("pruning and quantization are left to PaddleSlim", (None,)),
    }

    source: str = field(default="", init=False)

    def require(self, section: str) -> Any:
        """The section at a dotted path.

        Raises:
            UserError: the configuration does not have it.
        """
        value = self
        for name in section.split("."):
            value = getattr(value, name)
            if value is None:
                raise UserError(f"{self.source}: the section {section} is missing")
        return value


# --------------------------------------------------------------------------------------------------------
# Files and overrides


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

"""The sections of a configuration. Names and defaults are PaddleClas's, unless said otherwise.

Type hints are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Optional, Union

from ..utils.errors import UserError
from ..utils.paths import FilePath
from .checking import Unserved, argument
from .operators import Ops

MAX_WORKERS = 1024  # processes; more of them is a slip of the pen
ExportFormat = Literal["paddle", "pdmodel", "onnx"]
RGB = 3  # channels of an image, unless Arch.in_channels says otherwise
ONNX_OPSETS = (13, 21)  # first and last, as in deploy


def _check_min(key: str, value: Optional[int], minimum: int) -> None:
    if value is not None and value < minimum:
        raise _bad_value(key, f"must be at least {minimum}, got {value}")


def _bad_value(key: str, message: str) -> UserError:
    """``construct`` puts the place of the section before ``key``."""
    return UserError(message, code="config.bad-value", where=key)


@dataclass
class GlobalConfig:
    """``Global``: the run as a whole. The keys from ``num_threads`` on are ours."""

    epochs: int = 300
    checkpoints: Optional[FilePath] = None
    pretrained_model: Optional[FilePath] = None
    output_dir: FilePath = "./output/"
    device: Literal["cpu", "gpu", "xpu", "npu", "mlu"] = "gpu"
    save_interval: int = 1
    eval_during_train: bool = True
    eval_interval: int = 1
    start_eval_epoch: int = 0
    print_batch_step: int = 10
    use_visualdl: bool = False
    print_mem_info: bool = False
    image_shape: list[int] = field(default_factory=lambda: [3, 224, 224])
    save_inference_dir: FilePath = "./inference"
    update_freq: int = 1
    seed: Optional[int] = None
    class_num: Optional[int] = None
    num_threads: Optional[int] = None
    builtin_dataset: Optional[Literal["digits"]] = None
    export_tolerance: float = 1e-4
    export_tolerance_bf16x3: float = 1e-5
    export_tolerance_bf16: float = 5e-2
    export_tolerance_int8: float = 0.1
    export_agreement_int8: float = 0.95
    export_calibration_images: int = 128
    export_runtime: Literal["native", "channels_last"] = "native"
    export_depthwise: Literal["native", "cpu"] = "native"
    export_format: Union[ExportFormat, list[ExportFormat]] = "paddle"
    onnx_opset: int = 20
    onnx_dynamic_size: bool = False
    global_batch: Optional[int] = None
    save_step_interval: int = 0
    keep_checkpoints: Optional[int] = None
    max_bad_images: int = 0
    patience: Optional[int] = None
    train_layout: Literal["auto", "nchw", "channels_last"] = "auto"
    train_products: Literal["fp32", "fp32-bf16x3"] = "fp32"

    unserved: ClassVar[dict[str, Unserved]] = {
        "to_static": Unserved("training runs in dynamic graph; export makes the static one"),
        "use_dali": Unserved("images are decoded on the CPU by the loader"),
        "train_mode": Unserved("only the ordinary supervised loop exists"),
        "eval_mode": Unserved("only classification is evaluated", (None, "classification")),
        "uniform_output_enabled": Unserved("checkpoints lie side by side in output_dir"),
        "export_for_fd": Unserved("inference.yml is always written beside an exported program", (None, False, True)),
        "log_ranks": Unserved("one process logs", (None, 0, "0")),
    }
    renamed: ClassVar[dict[str, dict[str, str]]] = {
        "export_runtime": {"fast": "channels_last"},
        "export_depthwise": {"compiled": "cpu"},
    }

    def __post_init__(self) -> None:
        for name in ("epochs", "eval_interval", "print_batch_step", "update_freq", "num_threads", "patience"):
            _check_min(name, getattr(self, name), 1)
        _check_min("seed", self.seed, 0)
        _check_min("save_step_interval", self.save_step_interval, 0)
        _check_min("keep_checkpoints", self.keep_checkpoints, 1)
        _check_min("max_bad_images", self.max_bad_images, 0)
        _check_min("export_calibration_images", self.export_calibration_images, 1)
        if self.patience is not None and not self.eval_during_train:
            raise _bad_value("patience", "counts evaluations, but Global.eval_during_train is False")
        if self.train_products != "fp32" and self.train_layout == "nchw":
            raise _bad_value(
                "train_products",
                f"{self.train_products} is of channels-last training, which Global.train_layout=nchw switches off",
            )
        if not 0.0 <= self.export_agreement_int8 <= 1.0:
            raise _bad_value("export_agreement_int8", f"must lie between 0 and 1, got {self.export_agreement_int8}")
        if not self.export_formats:
            raise _bad_value("export_format", "expected at least one format, got an empty list")
        first, last = ONNX_OPSETS
        if not first <= self.onnx_opset <= last:
            raise _bad_value("onnx_opset", f"must be {first} to {last}, got {self.onnx_opset}")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise _bad_value("image_shape", f"expected [channels, height, width], got {self.image_shape}")

    @property
    def export_formats(self) -> list[str]:
        """The formats of ``export_format``, each once."""
        formats = [self.export_format] if isinstance(self.export_format, str) else self.export_format
        return list(dict.fromkeys(formats))


@dataclass
class EMAConfig:
    """``EMA``: exponential moving average of the weights. The presence of the section switches it on."""

    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.0 < self.decay < 1.0:
            raise _bad_value("decay", f"must lie between 0 and 1, got {self.decay}")


@dataclass
class AMPConfig:
    """``AMP``: mixed precision. The presence of the section switches it on, unless ``use_amp`` is False."""

    use_amp: bool = True
    level: Literal["O1", "O2"] = "O1"
    dtype: Literal["float16", "bfloat16"] = "float16"
    scale_loss: float = 1.0
    use_dynamic_loss_scaling: bool = False
    use_fp16_test: bool = False
    use_promote: bool = False

    def __post_init__(self) -> None:
        if self.scale_loss <= 0:
            raise _bad_value("scale_loss", f"must be positive, got {self.scale_loss}")


# A section that names something to build has a ``rest``. It collects the other keys, and the constructor of that thing
# checks them.


@dataclass
class ArchConfig:
    """``Arch``: the network, and the arguments of its constructor."""

    where: str
    arguments: dict
    name: str
    class_num: int = 1000
    infer_add_softmax: bool = True
    use_sync_bn: bool = False
    pretrained: Union[bool, str] = False

    rest: ClassVar[str] = "arguments"

    @property
    def in_channels(self) -> int:
        """Channels of the images that the network reads; an argument of its constructor."""
        channels = argument(self.arguments, "in_channels", Optional[int], self.where)
        return RGB if channels is None else channels


@dataclass
class LossConfig:
    """``Loss``: criteria of training and evaluation, as lists of ``Name: {weight: ...}``."""

    Train: Ops
    Eval: Ops = field(default_factory=Ops)

    def __post_init__(self) -> None:
        if not self.Train:
            raise _bad_value("Train", "at least one criterion is needed, for example CELoss")


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
    name: Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    drop_last: bool = False
    shuffle: bool = False

    def __post_init__(self) -> None:
        _check_min("batch_size", self.batch_size, 1)


@dataclass
class LoaderConfig:
    """``DataLoader.*.loader``."""

    num_workers: int = 0
    use_shared_memory: bool = True

    def __post_init__(self) -> None:
        _check_min("num_workers", self.num_workers, 0)
        if self.num_workers > MAX_WORKERS:
            raise _bad_value("num_workers", f"must be at most {MAX_WORKERS}, got {self.num_workers}")


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

    name: Literal["Topk"] = "Topk"
    topk: int = 5
    class_id_map_file: Optional[FilePath] = None
    delimiter: Optional[str] = None

    def __post_init__(self) -> None:
        _check_min("topk", self.topk, 1)


@dataclass
class InferConfig:
    """``Infer``: prediction on images without labels."""

    transforms: Ops
    infer_imgs: Optional[FilePath] = None
    infer_list: Optional[FilePath] = None
    batch_size: int = 10
    PostProcess: PostProcessConfig = field(default_factory=PostProcessConfig)

    unserved: ClassVar[dict[str, Unserved]] = {"save_dir": Unserved("use --output FILE.json or FILE.csv")}

    def __post_init__(self) -> None:
        _check_min("batch_size", self.batch_size, 1)


@dataclass
class MetricConfig:
    """``Metric``: what is measured in training and evaluation."""

    Train: Ops = field(default_factory=Ops)
    Eval: Ops = field(default_factory=Ops)


# Sections that are on where they are present, even with nothing below them.
SWITCHES = frozenset(("EMA", "AMP"))


@dataclass
class Config:
    """A whole configuration. Sections that a command does not need may be missing."""

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

    def __post_init__(self) -> None:
        made, read = self.Global.image_shape[0], self.Arch.in_channels
        if made != read:
            raise _bad_value(
                "Global.image_shape", f"has {made} channels, but Arch.in_channels is {read}; make them equal"
            )

    def require(self, section: str) -> Any:
        """The section at a dotted path.

        Raises:
            UserError: the configuration does not have it.
        """
        value = self
        for name in section.split("."):
            value = getattr(value, name)
            if value is None:
                raise UserError(f"the section {section} is missing", code="config.missing-key", where=self.source)
        return value

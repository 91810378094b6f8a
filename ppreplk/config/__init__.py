"""PaddleClas-schema YAML to a checked, typed configuration."""

from .checking import Unserved, argument, check_arguments, construct, signature_of, typed
from .json_schema import json_schema, read_descriptions, write_json_schema
from .operators import Op, Ops, find_op, read_ops
from .reading import load_config, override, read_yaml
from .scalars import parse_number
from .sections import (
    RGB,
    AMPConfig,
    ArchConfig,
    Config,
    DataLoaderConfig,
    DatasetConfig,
    EMAConfig,
    GlobalConfig,
    InferConfig,
    LoaderConfig,
    LossConfig,
    MetricConfig,
    OptimizerConfig,
    PostProcessConfig,
    SamplerConfig,
    ScheduleConfig,
    SplitConfig,
)

__all__ = [
    "RGB",
    "AMPConfig",
    "ArchConfig",
    "Config",
    "DataLoaderConfig",
    "DatasetConfig",
    "EMAConfig",
    "GlobalConfig",
    "InferConfig",
    "LoaderConfig",
    "LossConfig",
    "MetricConfig",
    "Op",
    "Ops",
    "OptimizerConfig",
    "PostProcessConfig",
    "SamplerConfig",
    "ScheduleConfig",
    "SplitConfig",
    "Unserved",
    "argument",
    "check_arguments",
    "construct",
    "find_op",
    "json_schema",
    "load_config",
    "override",
    "parse_number",
    "read_descriptions",
    "read_ops",
    "read_yaml",
    "signature_of",
    "typed",
    "write_json_schema",
]

"""What a run of PaddleDetection can have wrong, said in one line: it answers with a traceback, or not at all."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import paddle
import yaml
from paddle import nn

from ...checkpoints.compare import compare
from ...checkpoints.files import find_checkpoint, read_weights
from ...models.registry import shapes_of
from ...utils.errors import UserError, nearest
from ..suites import backbone_names

REGISTERED_PARTS = ("backbone", "neck", "rpn_head", "bbox_head", "mask_head", "fcos_head")
OURS = (*backbone_names(), "CascadeBoxHead", "CascadeMaskHead", "ClippedFCOSHead", "those of PaddleDetection")
URL = ("http://", "https://", "ppdet://")


def read_config(path: Optional[str], overrides: Sequence[str]) -> Any:
    """The configuration as PaddleDetection reads it, with the files that it is based on.

    Args:
        path: of the YAML file.
        overrides: ``KEY.SUB=VALUE``, as of ``-o``.

    Raises:
        UserError: no such file, no YAML, or PaddleDetection cannot read it.
    """
    from ppdet.core.workspace import load_config, merge_config
    from ppdet.utils.cli import ArgsParser

    if path is None:
        raise UserError("name the configuration with -c", code="plugins.bad-config")
    if not path.endswith((".yml", ".yaml")):
        raise UserError("PaddleDetection expects a file ending in .yml or .yaml", code="plugins.bad-config", where=path)
    if not Path(path).is_file():
        raise UserError(f"there is no configuration {path}", code="plugins.no-file", where="-c")
    for text in overrides:
        if "=" not in text:
            raise UserError(
                "expected KEY.SUB=VALUE, for example LearningRate.base_lr=0.001",
                code="plugins.bad-override",
                where=f"-o {text}",
            )
    try:
        config = load_config(path)
        merge_config(ArgsParser()._parse_opt(list(overrides)))
    except (yaml.YAMLError, AssertionError, TypeError, ValueError, LookupError, AttributeError, OSError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"PaddleDetection cannot use it ({reason})", code="plugins.bad-config", where=path) from error
    return config


def check_parts(config: Any) -> None:
    """Look up the architecture, its parts, and the arguments of both where PaddleDetection does.

    Raises:
        UserError: a name or an argument is unknown; the nearest ones are listed.
    """
    from ppdet.core.workspace import get_registered_modules

    known = get_registered_modules()
    name = config.get("architecture")
    architectures = [each for each in known if known[each].category == "architecture"]
    if name not in architectures:
        raise UserError(
            f"unknown architecture {name!r}{nearest(str(name), architectures)}",
            code="plugins.unknown-type",
            where="architecture",
        )
    _check_arguments(name, known[name])
    for part in REGISTERED_PARTS:
        module = known[name].get(part)
        if isinstance(module, str):
            if module not in known:
                raise UserError(
                    f"unknown {part} {module!r}{nearest(module, known, OURS)}",
                    code="plugins.unknown-type",
                    where=f"{name}.{part}",
                )
            _check_arguments(module, known[module])


def _check_arguments(name: str, section: Any) -> None:
    """Check that a module takes what its section says."""
    for key in section:
        if key not in section.schema and section.strict:
            raise UserError(
                f"unknown key{nearest(str(key), section.schema)}", code="plugins.unknown-key", where=f"{name}.{key}"
            )


def check_device(config: Any) -> None:
    """Check that there is a GPU if the configuration asks for one.

    Raises:
        UserError: this Paddle has none.
    """
    if config.get("use_gpu") and not paddle.is_compiled_with_cuda():
        raise UserError("this Paddle has no GPU; add -o use_gpu=false", code="plugins.device", where="use_gpu")


def check_resumable(path: Optional[str]) -> None:
    """Check that a checkpoint is there, with or without its ending.

    Raises:
        UserError: it is not.
    """
    if path is not None and not Path(path).with_suffix(".pdparams").is_file():
        raise UserError(f"there is no checkpoint {path}", code="plugins.no-file", where="--resume")


def check_data(config: Any, sections: Sequence[str]) -> None:
    """Check that data sets are there. PaddleDetection would download COCO; nothing is downloaded here.

    Args:
        config: the configuration.
        sections: ``TrainDataset``, ``EvalDataset`` or both.

    Raises:
        UserError: a folder or the annotations are missing.
    """
    for section in sections:
        entry = config.get(section)
        if not isinstance(entry, Mapping):
            raise UserError("missing; PaddleDetection needs it here", code="plugins.no-data", where=section)
        root = Path(str(entry.get("dataset_dir") or ""))
        for key in ("image_dir", "anno_path"):
            value = entry.get(key)
            if isinstance(value, str) and not (root / value).exists():
                raise UserError(
                    f"there is no {root / value} in {Path.cwd()}", code="plugins.no-data", where=f"{section}.{key}"
                )


def check_weights_named(config: Any) -> None:
    """Check that a configuration names weights.

    Raises:
        UserError: it does not.
    """
    if not isinstance(config.get("weights"), str):
        raise UserError("names no file; give -o weights=FILE", code="checkpoints.none-named", where="weights")


def check_weights(network: nn.Layer, path: str) -> None:
    """Check that a file has all weights of a network.

    PaddleDetection takes those that match, and goes on with initial values for the others.

    Raises:
        UserError: no such file, or weights are missing or have other shapes.
    """
    if path.startswith(URL):
        raise UserError("nothing is downloaded; name a file", code="plugins.bad-path", where="weights")
    file = find_checkpoint(path)
    state = read_weights(file).state
    found = compare(shapes_of(network), state)
    if found.missing or found.misshaped:
        example = (found.misshaped or found.missing)[0]
        hint = ""
        if any(name.startswith("neck.lateral_convs.") for name in state):
            hint = "; these are MMDetection's names: convert it with ppreplk convert FILE OUT --for paddledetection"
        raise UserError(
            f"{file} belongs to another network than the configuration: {found.matched} matched, {len(found.missing)} "
            f"missing, {len(found.unexpected)} unexpected, {len(found.misshaped)} mis-shaped, for example {example}"
            f"{hint}",
            code="checkpoints.other-architecture",
            where="weights",
        )


@contextmanager
def whole_weights() -> Iterator[None]:
    """Let PaddleDetection evaluate and export with whole weights only."""
    from ppdet.engine import Trainer

    original = Trainer.load_weights

    @functools.wraps(original)
    def load_weights(self: Any, weights: Any, *arguments: Any, **named: Any) -> Any:
        check_weights(self.model, weights)
        return original(self, weights, *arguments, **named)

    Trainer.load_weights = load_weights
    try:
        yield
    finally:
        Trainer.load_weights = original

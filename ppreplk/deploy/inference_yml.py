"""``inference.yml``: what lies beside an exported program, written for three readers and read here.

The readers are this package, PaddleX, and the predictor in PaddleClas's ``deploy`` folder. What they demand:

- PaddleX: ``Global.model_name``; in ``transform_ops`` no ``DecodeImage``, ``NormalizeImage`` with a number as its scale
  and an empty order, interpolations by the names it knows; ``Topk`` with ``topk`` and ``label_list`` alone, and nothing
  else in ``PostProcess``.
- PaddleClas: the keys of :data:`PADDLECLAS_GLOBAL`; no ``DecodeImage`` with a backend. It also wants
  ``PostProcess.main_indicator``, which PaddleX refuses: ``-o PostProcess.main_indicator=Topk`` gives it.
- Both ignore keys in ``Global`` that they do not know, so ours are there.

Transforms that PaddleX would apply in another order, or on other colours, keep their ``DecodeImage``: the two then
refuse the file instead of predicting something else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml

from ..config import RGB, Config, Op, Ops, construct, parse_number, read_ops, read_yaml, typed
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

INFERENCE_YAML = "inference.yml"
DECODE, RESIZE, CROP, NORMALIZE, TO_CHW = "DecodeImage", "ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage"
ORDER = (DECODE, RESIZE, CROP, NORMALIZE, TO_CHW)  # in which PaddleX applies them, whatever the file says
DECODE_IMAGE = "decode_image"  # in Global: the arguments of DecodeImage, which is not among the transforms
FALLBACK_DECODING = {"backend": "pil"}  # of files that others wrote
ADD_SOFTMAX = "add_softmax"  # in Global; in PostProcess.Topk until version 0.1.0
# What PaddleClas's predictor does not do without. Its -o changes them.
PADDLECLAS_GLOBAL: dict[str, Any] = {
    "inference_model_dir": ".",
    "infer_imgs": ".",
    "batch_size": 1,
    "use_gpu": False,
    "gpu_mem": 8000,
    "use_fp16": False,
    "use_tensorrt": False,
    "enable_mkldnn": True,
    "cpu_num_threads": 10,
    "enable_profile": False,
    "ir_optim": True,
}


@dataclass
class Description:
    """What ``inference.yml`` says.

    Args:
        transforms: from an encoded image to what the program reads.
        topk: classes that are shown.
        class_names: in order; None where they are unknown.
        add_softmax: whether the program's outputs are logits.
        precision: what the program was exported for, as it stands in the file; None where it does not say.
        model_name: the network; None where the file does not say.
        image_shape: (C, H, W) of what the program reads; None where the file does not say.
    """

    transforms: Ops
    topk: int
    class_names: list[str] | None
    add_softmax: bool
    precision: Any = None
    model_name: str | None = None
    image_shape: list[int] | None = None


@dataclass
class TopkSection:
    """``PostProcess.Topk``, as this package ever wrote it."""

    topk: int
    label_list: Optional[list[str]] = None
    add_softmax: bool = False

    def __post_init__(self) -> None:
        if self.topk < 1:
            raise UserError(f"must be 1 or more, got {self.topk}", code="deploy.bad-value", where="topk")


def read_description(folder: str | Path) -> Description:
    """What the ``inference.yml`` in a folder says: ours of any version, PaddleClas's and PaddleX's.

    Raises:
        UserError: there is none, or it does not say how images are prepared and classes are ranked.
    """
    path = Path(folder) / INFERENCE_YAML
    if not path.is_file():
        raise UserError(f"{path} missing, which tools/export.py writes; export again", code="deploy.no-program")
    content = read_yaml(path)
    try:
        listed, topk = content["PreProcess"]["transform_ops"], content["PostProcess"]["Topk"]
        settings = content.get("Global") or {}
        precision, name, decode = (settings.get(key) for key in ("precision", "model_name", DECODE_IMAGE))
        shape, logits = settings.get("image_shape"), settings.get(ADD_SOFTMAX)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"not written by tools/export.py, {error} is missing; export again",
            code="deploy.bad-program",
            where=str(path),
        ) from error
    where = f"{path}: PreProcess.transform_ops"
    ops = read_ops(listed, where)
    if not any(op.name == DECODE for op in ops):
        ops = Ops([*read_ops([{DECODE: decode or FALLBACK_DECODING}], f"{path}: Global.{DECODE_IMAGE}"), *ops])
    section = construct(TopkSection, topk, f"{path}: PostProcess.Topk")
    return Description(
        transforms=ops,
        topk=section.topk,
        class_names=section.label_list,
        add_softmax=section.add_softmax if logits is None else typed(logits, bool, f"{path}: Global.{ADD_SOFTMAX}"),
        precision=precision,
        model_name=None if name is None else str(name),
        image_shape=_sides(shape),
    )


def _sides(shape: Any) -> list[int] | None:
    if isinstance(shape, Sequence) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape):
        return list(shape)
    return None


def write_inference_yml(config: Config, names: list[str] | None, path: Path, precision: str) -> None:
    """Write transforms, class names and the shape of images: what a user of the program needs beside it.

    Args:
        config: of the network.
        names: of its classes in order, or None.
        path: of the file.
        precision: what the program is exported for.
    """
    infer = config.require("Infer")
    settings = {
        "model_name": config.Arch.name,
        "image_shape": config.Global.image_shape,
        "precision": precision,
        ADD_SOFTMAX: not config.Arch.infer_add_softmax,
    }
    ops = _with_common_words(infer.transforms)
    if config.Arch.in_channels == RGB and _is_common(ops):
        settings[DECODE_IMAGE] = dict(ops[0].arguments)
        ops = Ops(ops[1:])
    else:
        logger.info(
            "%s is for this package alone: PaddleX and PaddleClas's predictor apply %s in this order, to RGB images",
            *(INFERENCE_YAML, ", ".join(ORDER[1:])),
        )
    topk: dict[str, Any] = {"topk": infer.PostProcess.topk}
    if names is not None:
        topk["label_list"] = names
    content = {
        "Global": {**settings, **PADDLECLAS_GLOBAL, "batch_size": infer.batch_size},
        "PreProcess": {"transform_ops": [{op.name: dict(op.arguments) or None} for op in ops]},
        "PostProcess": {"Topk": topk},
    }
    path.write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _is_common(ops: Ops) -> bool:
    """Whether PaddleX and PaddleClas's predictor do what ``ops`` say, once DecodeImage is left to them."""
    names = [op.name for op in ops]
    needed = {DECODE, RESIZE, NORMALIZE, TO_CHW}
    return (
        names == [name for name in ORDER if name in names]
        and needed <= set(names)
        and ops[0].arguments.get("to_rgb", True) is True
        and all(op.arguments.get("order") == "" for op in ops if op.name == NORMALIZE)
    )


def _with_common_words(ops: Ops) -> Ops:
    """The same transforms in words that all three readers know, as far as there are some."""
    names = [op.name for op in ops]
    written = [Op(op.name, _common_arguments(op), op.where) for op in ops]
    if names[-2:] == [TO_CHW, NORMALIZE]:  # the same numbers the other way round
        written[-2:] = [
            Op(NORMALIZE, {**written[-1].arguments, "order": ""}, written[-1].where),
            Op(TO_CHW, {}, written[-2].where),
        ]
    return Ops(written)


def _common_arguments(op: Op) -> dict[str, Any]:
    arguments = dict(op.arguments)
    if op.name == RESIZE:
        interpolation = str(arguments.pop("interpolation", None) or "bilinear")
        if arguments.get("backend", "cv2") == "pil" or interpolation.lower() != "bilinear":
            arguments["interpolation"] = interpolation  # OpenCV's bilinear one has a name of its own in PaddleX
    if op.name == NORMALIZE:
        order = arguments.get("order", "chw")
        arguments.update(scale=_number(arguments.get("scale")), order="" if order == "hwc" else order)
        arguments.pop("output_fp16", None)  # False, or it is refused
    return arguments


def _number(scale: Any) -> Any:
    """A scale that may be written as a fraction. PaddleX wants a number; what is none is refused elsewhere."""
    try:
        return 1 / 255 if scale is None else parse_number(scale) if isinstance(scale, str) else scale
    except ValueError:
        return scale


class _Dumper(yaml.SafeDumper):
    """Writes texts so that they are read as they were: PyYAML leaves U+0085 as it is, and reads it as a line end."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)

"""A trained network of PaddleSeg as a program: backbone folded, saved as PaddleSeg saves it, and proved by running it.

The folder gets what PaddleSeg's own export writes (program, weights, ``deploy.yaml`` with the preprocessing), and in
``deploy.yaml`` the classes' names and colours, where they are known.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
import yaml
from paddle import nn

from ...nn import fold
from ...utils.atomic import creating, replace_files
from ...utils.command import Parser
from ...utils.errors import UserError
from ...utils.paddle_errors import PADDLE_ERRORS, paddle_reason
from ..suite_programs import create_predictor, inference_config, run_program
from .seg_checks import read_config
from .seg_classes import class_colours, class_names
from .seg_model import is_ours, load_network
from .seg_predictor import CLASSES

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of the largest logit
OUTPUTS = {"argmax": "classes", "softmax": "probabilities", "none": "logits"}  # by what follows the logits
SIZES = ((128, 160), (97, 65))  # height and width of the random images, where the program takes any
NAMES = {False: ("model", "deploy.yaml"), True: ("inference", "inference.yml")}  # program and description, by for_fd
STAGING = ".partial-"


def export_parser() -> Parser:
    """The arguments of PaddleSeg's own export."""
    parser = Parser(
        prog="python -m ppreplk.plugins.paddleseg export",
        description="Export a network with its backbone folded, and prove the program against the trained network.",
    )
    parser.add_argument("--config", required=True, help="the configuration, a YAML file")
    parser.add_argument("--model_path", required=True, help="trained weights of the whole network")
    parser.add_argument("--save_dir", default="./output/inference_model", help="folder of the program")
    parser.add_argument("--input_shape", nargs="+", type=int, help="fixed shape N C H W; -1 for any")
    parser.add_argument("--output_op", default="argmax", choices=list(OUTPUTS), help="what follows the logits")
    parser.add_argument("--for_fd", action="store_true", help="names of files as FastDeploy expects them")
    return parser


def export(arguments: argparse.Namespace) -> Path:
    """Export the network of a configuration.

    Args:
        arguments: of :func:`export_parser`.

    Returns:
        The folder.

    Raises:
        UserError: weights that do not fit, or a program that differs from the network; nothing is kept then.
    """
    from paddleseg.cvlibs import SegBuilder

    config = read_config(arguments.config)
    spec = _input_spec(arguments.input_shape)
    if not config.val_dataset_cfg:
        raise UserError(
            "missing; its transforms are stored beside the program", code="plugins.no-data", where="val_dataset"
        )
    model = SegBuilder(config).model
    if not is_ours(model):
        raise UserError(
            f"{type(model).__name__} does not stand on a backbone of ours; export it with PaddleSeg's own tool",
            code="plugins.foreign-network",
            where="model.backbone.type",
        )
    if config.test_config.get("is_slide"):
        logger.warning("the program sees whole images; PaddleSeg evaluates this configuration window by window")
    load_network(model, arguments.model_path)
    model.eval()
    images = random_images(spec)
    try:
        with paddle.no_grad():
            expected = [model(paddle.to_tensor(batch))[0].numpy() for batch in images]
    except (*PADDLE_ERRORS, ValueError) as error:
        shapes = " and ".join(str(list(batch.shape)) for batch in images)
        raise UserError(
            f"the network does not run on images of shape {shapes} ({paddle_reason(error)})",
            code="plugins.bad-shape",
            where="--input_shape",
        ) from error
    model.backbone = fold(model.backbone)
    target = Path(arguments.save_dir)
    program, description = NAMES[arguments.for_fd]
    with creating(target, "--save_dir"):
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target))
        try:
            if arguments.output_op != "none":  # logits tell more than what is made of them
                with tempfile.TemporaryDirectory(prefix=STAGING, dir=target) as folder:
                    save(model, spec, "none", Path(folder) / program)
                    check_program(Path(folder) / f"{program}.json", images, expected, "none")
            save(model, spec, arguments.output_op, staging / program)
            check_program(staging / f"{program}.json", images, expected, arguments.output_op)
            content = describe(config, expected[0].shape[1], spec, arguments.output_op, program)
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            (staging / description).write_text(text, encoding="utf-8")
            replace_files(staging, target, stale=_of_the_other_names(arguments.for_fd))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    logger.info("saved %s with %s.pdiparams, and %s beside them", target / f"{program}.json", program, description)
    return target


def _of_the_other_names(for_fd: bool) -> list[str]:
    """The files of an export under the other names, whose program would be taken for this one."""
    program, description = NAMES[not for_fd]
    return [f"{program}.json", f"{program}.pdiparams", description]


def _input_spec(shape: Optional[Sequence[int]]) -> list[Optional[int]]:
    if shape is None:
        return [None, 3, None, None]
    if len(shape) != 4 or shape[1] < 1:
        raise UserError(
            f"expected four numbers N C H W, got {' '.join(map(str, shape))}",
            code="plugins.bad-shape",
            where="--input_shape",
        )
    return [side if side > 0 else None for side in shape]


def random_images(spec: Sequence[Optional[int]]) -> list[np.ndarray]:
    """Normally distributed images (N, C, H, W) of each of :data:`SIZES`, or of the shape that is fixed."""
    rng = np.random.default_rng(0)
    shapes = {(spec[0] or 1, spec[1] or 3, spec[2] or height, spec[3] or width) for height, width in SIZES}
    return [rng.standard_normal(shape, np.float32) for shape in sorted(shapes)]


class _WithOperator(nn.Layer):
    """The network with what follows its logits, as PaddleSeg appends it."""

    def __init__(self, model: nn.Layer, operator: str):
        super().__init__()
        self.model = model
        self.operator = operator

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        logits = self.model(x)[0]
        if self.operator == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32")
        return nn.functional.softmax(logits, axis=1) if self.operator == "softmax" else logits


def save(model: nn.Layer, spec: Sequence[Optional[int]], operator: str, path: Path) -> None:
    """Write ``path``.json and ``path``.pdiparams."""
    whole = _WithOperator(model, operator)
    whole.eval()
    inputs = [paddle.static.InputSpec(list(spec), "float32")]
    paddle.jit.save(paddle.jit.to_static(whole, input_spec=inputs, full_graph=True), str(path))


@dataclass(frozen=True)
class Proof:
    """How far a program is from the trained network: ``difference`` of a logit, where the largest is ``scale``.

    Of a program that gives classes, ``difference`` is the largest margin by which it chose another class than the
    network, and ``same`` the share of pixels where it chose the same.
    """

    difference: float
    scale: float
    same: float


def check_program(program: Path, images: Sequence[np.ndarray], expected: Sequence[np.ndarray], operator: str) -> Proof:
    """Run a program in Paddle Inference and compare it with what the network in train form gave.

    Args:
        program: the ``.json`` file.
        images: batches (N, C, H, W).
        expected: logits (N, K, H, W) for each of them.
        operator: what follows the logits in the program.

    Raises:
        UserError: the difference is more than :data:`TOLERANCE` of the largest logit.
    """
    if not all(np.isfinite(logits).all() for logits in expected):
        raise UserError(
            "export failed: the trained network itself gives NaN or infinite logits", code="plugins.not-finite"
        )
    predictor = create_predictor(inference_config(program, program.with_suffix(".pdiparams")), program)
    difference, same = 0.0, []
    for batch, logits in zip(images, expected):
        output = run_program(predictor, [batch], program)[0]
        difference = max(difference, _difference(output, logits.astype(np.float64), operator))
        classes = output if operator == "argmax" else output.argmax(1)
        same.append(float((classes == logits.argmax(1)).mean()))
    proof = Proof(difference, max(float(np.abs(logits).max()) for logits in expected), float(np.mean(same)))
    logger.info(
        "%s of the program against the network in train form, on %d random images: largest difference %.3g (largest "
        "logit %.3g), the same class for %.4f%% of the pixels",
        *(OUTPUTS[operator], sum(len(batch) for batch in images), proof.difference, proof.scale, 100 * proof.same),
    )
    if not proof.difference <= TOLERANCE * max(proof.scale, 1.0):
        raise UserError(
            f"export failed: the program differs from the network by {proof.difference:.3g}, which is more than "
            f"{TOLERANCE:g} of the largest logit {proof.scale:.3g}; nothing was written",
            code="plugins.wrong-program",
        )
    return proof


def _difference(output: np.ndarray, logits: np.ndarray, operator: str) -> float:
    """The largest difference; infinite where shapes differ or an output is NaN."""
    if operator == "argmax":
        if output.shape != (logits.shape[0], *logits.shape[2:]) or not (
            0 <= output.min() <= output.max() < logits.shape[1]
        ):
            return float("inf")
        chosen = np.take_along_axis(logits, output[:, None].astype(np.int64), axis=1)[:, 0]
        return float((logits.max(1) - chosen).max()) / 2  # each of the two logits may be that far off
    if output.shape != logits.shape:
        return float("inf")
    if operator == "softmax":
        powers = np.exp(logits - logits.max(1, keepdims=True))
        logits = powers / powers.sum(1, keepdims=True)
    return float(np.nan_to_num(np.abs(output - logits), nan=np.inf).max())


def describe(config: Any, classes: int, spec: Sequence[Optional[int]], operator: str, program: str) -> dict[str, Any]:
    """The content of ``deploy.yaml``: PaddleSeg's section ``Deploy``, and names and colours of the classes."""
    content: dict[str, Any] = {
        "Deploy": {
            "model": f"{program}.json",
            "params": f"{program}.pdiparams",
            "transforms": config.val_dataset_cfg.get("transforms", []),
            "input_shape": [-1 if side is None else side for side in spec],
            "output_op": operator,
            "output_dtype": "int32" if operator == "argmax" else "float32",
        }
    }
    names = class_names(config.val_dataset_cfg, classes)
    if names:
        content[CLASSES] = {"names": names}
        colours = class_colours(config.val_dataset_cfg)
        if colours:
            content[CLASSES]["palette"] = colours
    return content

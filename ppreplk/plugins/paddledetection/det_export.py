"""Export through PaddleDetection: the backbone folded, the program proved against the network as it was trained."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

from ...models.registry import architecture_of
from ...nn import fold
from ...utils.atomic import make_folder, replace_files
from ...utils.errors import UserError
from ..pictures import Detections
from ..suite_images import read_image
from .det_predictor import DESCRIPTION, PROGRAM, WEIGHTS, DetectionPredictor, detections_of

logger = logging.getLogger(__name__)

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 1e-4  # of the image's longer side
MASK_TOLERANCE = 1e-3  # share of the pixels that either mask covers
FEATURE_TOLERANCE = 1e-3  # of the largest value of a feature map
MAX_IMAGES = 4  # that are tried until one has boxes
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
NOISE_SIDE = 256  # pixels of the image that is made where no data set is at hand, if the program takes any


def check_arguments(arguments: Sequence[str]) -> None:
    """Check that the program will lie where it is looked for.

    Raises:
        UserError: it is to be written for FastDeploy or Paddle Serving, under other names.
    """
    for option in ("--for_fd", "--export_serving_model"):
        if any(argument.partition("=")[0] == option for argument in arguments):
            raise UserError(
                "not served: the program is proved and kept as model.json", code="plugins.export-argument", where=option
            )


class Agreement(NamedTuple):
    """How far two lists of detections are apart: largest difference of scores, of edges in pixels, of masks."""

    boxes: int
    score: float
    edge: float
    mask: float


@contextmanager
def proved_exports() -> Iterator[None]:
    """Let PaddleDetection's ``Trainer.export`` write programs of folded backbones, and keep those that are right."""
    from ppdet.engine import Trainer

    original = Trainer.export

    def export(self: Any, output_dir: str = "output_inference", **named: Any) -> None:
        export_folded(self, Path(output_dir), lambda folder: original(self, folder, **named))

    Trainer.export = export
    try:
        yield
    finally:
        Trainer.export = original


def export_folded(trainer: Any, output: Path, write: Callable[[str], None]) -> Path:
    """Export a trainer's network with its backbone folded, compare program and network, and keep the program.

    Args:
        trainer: PaddleDetection's, with the weights loaded.
        output: the program goes to a folder in it that is called like the configuration.
        write: exports the trainer's network to a folder, as PaddleDetection does.

    Returns:
        The folder.

    Raises:
        UserError: the program does not say what the network does. Nothing has been written then.
    """
    network, name = trainer.model, Path(trainer.cfg.filename).stem
    network.eval()
    make_folder(output, "--output_dir")
    target = output / name
    backbone = network.backbone
    if architecture_of(backbone) is None:
        logger.warning("%s is not one of our networks: it is exported as it is", type(backbone).__name__)
        folded = backbone
    else:
        folded = fold(backbone)
        folded.eval()
    with tempfile.TemporaryDirectory(dir=output) as staging:
        network.backbone = folded
        try:
            write(staging)
        finally:
            network.backbone = backbone
        written = Path(staging) / name
        for file in (PROGRAM, WEIGHTS, DESCRIPTION):
            if not (written / file).is_file():
                raise UserError(f"PaddleDetection has written no {file}", code="plugins.no-program", where=str(written))
        fuses = bool(trainer.cfg["TestReader"].get("fuse_normalize", False))
        verify(DetectionPredictor(written), network, folded, images_to_compare(trainer.cfg), fuses)
        make_folder(target, "--output_dir")
        replace_files(written, target, [])
    logger.info("kept: %s", target)
    return target


def verify(
    predictor: DetectionPredictor,
    network: nn.Layer,
    folded: nn.Layer,
    images: Iterator[tuple[str, np.ndarray]],
    fuses_normalization: bool = False,
) -> Agreement:
    """Compare a program in Paddle Inference with the network in train form, in evaluation mode.

    The boxes and masks of the first image that has boxes are compared, and the feature maps of the folded backbone.

    Args:
        predictor: of the program.
        network: PaddleDetection's, its backbone in train form.
        folded: that backbone, folded.
        images: names and images to try.
        fuses_normalization: whether the program normalizes images itself.

    Returns:
        The differences; of no boxes, where no image has any.

    Raises:
        UserError: they are larger than the tolerances that are named at the head of this module.
    """
    agreement, tried = Agreement(0, 0.0, 0.0, 0.0), 0
    for name, image in islice(images, MAX_IMAGES):
        tried += 1
        batch = predictor.preprocessing(image).batch()
        said = detections_of(predictor.run(batch), image.shape[:2], predictor.has_masks)
        expected = detections_of(_outputs(network, batch, fuses_normalization), image.shape[:2], predictor.has_masks)
        agreement = compare(said, expected, max(image.shape[:2]), name)
        features = _check_features(network.backbone, folded, batch, name)
        if agreement.boxes:
            masks = f"masks in {agreement.mask:.1e} of their pixels, " if predictor.has_masks else ""
            logger.info(
                "verified on %s: %d boxes; scores differ by %.1e at most, edges by %.1e pixels, %sfeature maps by %.1e",
                *(name, agreement.boxes, agreement.score, agreement.edge, masks, features),
            )
            return agreement
    logger.warning(
        "verified on %d images without a box: neither program nor network finds any there; feature maps agree", tried
    )
    return agreement


def compare(said: Detections, expected: Detections, side: int, name: str) -> Agreement:
    """Find each detection in the other list.

    The one with the lowest score may be missing, and those that are as low: a difference in the last digit decides
    whether they are kept. But one list is not empty where the other is not.

    Args:
        said, expected: of the program and the network.
        side: the image's longer side.
        name: of the image, for the message.

    Raises:
        UserError: one has no counterpart, or the masks of two differ.
    """
    scores = np.concatenate([said.scores, expected.scores])
    if not len(scores):
        return Agreement(0, 0.0, 0.0, 0.0)
    if not (len(said.scores) and len(expected.scores)):
        who = "the network" if len(expected.scores) else "the program"
        raise _wrong(name, f"{who} alone finds something, {len(scores)} boxes")
    kept_by_chance = scores.min() + SCORE_TOLERANCE
    free = set(range(len(said.scores)))
    pairs = 0
    score = edge = mask = 0.0
    for index in range(len(expected.scores)):
        near = [
            other
            for other in sorted(free)
            if said.classes[other] == expected.classes[index]
            and abs(said.scores[other] - expected.scores[index]) <= SCORE_TOLERANCE
            and np.abs(said.boxes[other] - expected.boxes[index]).max() <= BOX_TOLERANCE * side
        ]
        if not near:
            if expected.scores[index] > kept_by_chance:
                raise _wrong(name, f"the network finds {_shown(expected, index)}, the program does not")
            continue
        other = min(near, key=lambda each: float(np.abs(said.boxes[each] - expected.boxes[index]).max()))
        free.remove(other)
        pairs += 1
        score = max(score, float(abs(said.scores[other] - expected.scores[index])))
        edge = max(edge, float(np.abs(said.boxes[other] - expected.boxes[index]).max()))
        if said.masks is not None and expected.masks is not None:
            either = max(1, int((said.masks[other] | expected.masks[index]).sum()))
            mask = max(mask, float((said.masks[other] ^ expected.masks[index]).sum() / either))
    for index in sorted(free):
        if said.scores[index] > kept_by_chance:
            raise _wrong(name, f"the program finds {_shown(said, index)}, the network does not")
    if mask > MASK_TOLERANCE:
        raise _wrong(name, f"a mask differs in {mask:.1e} of its pixels (tolerance {MASK_TOLERANCE})")
    return Agreement(pairs, score, edge, mask)


def _shown(detections: Detections, index: int) -> str:
    edges = ", ".join(f"{value:.2f}" for value in detections.boxes[index])
    return f"class {detections.classes[index]} with {detections.scores[index]:.4f} at ({edges})"


def _wrong(name: str, reason: str) -> UserError:
    return UserError(
        f"the program does not say what the network does: {reason} (tolerances: scores {SCORE_TOLERANCE}, edges "
        f"{BOX_TOLERANCE} of the longer side)",
        code="plugins.wrong-program",
        where=name,
    )


@paddle.no_grad()
def _outputs(network: Any, batch: dict[str, np.ndarray], fuses_normalization: bool) -> list[np.ndarray]:
    """The network's outputs, in the order of a program's."""
    before = network.fuse_norm
    network.fuse_norm = fuses_normalization
    try:
        outputs = network({key: paddle.to_tensor(value) for key, value in batch.items()})
    finally:
        network.fuse_norm = before
    return [outputs[key].numpy() for key in ("bbox", "bbox_num", "mask") if key in outputs]


@paddle.no_grad()
def _check_features(backbone: nn.Layer, folded: nn.Layer, batch: dict[str, np.ndarray], name: str) -> float:
    """The largest difference of the feature maps, relative to the largest value of each.

    Raises:
        UserError: it is larger than the tolerance, or not a number.
    """
    inputs = {"image": paddle.to_tensor(batch["image"])}
    largest = 0.0
    for one, other in zip(folded(inputs), backbone(inputs)):
        largest = max(largest, float((one - other).abs().max() / other.abs().max().clip(min=1e-12)))
    if not largest <= FEATURE_TOLERANCE:
        raise UserError(
            f"the folded backbone's feature maps differ by {largest:.1e} from those in train form (tolerance "
            f"{FEATURE_TOLERANCE})",
            code="plugins.wrong-program",
            where=name,
        )
    return largest


def images_to_compare(config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Images of the configuration's data sets, then noise."""
    for section in ("EvalDataset", "TrainDataset"):
        dataset = config.get(section)
        values = dataset if isinstance(dataset, dict) else getattr(dataset, "__dict__", {})
        folder = Path(str(values.get("dataset_dir") or ""), str(values.get("image_dir") or ""))
        if values.get("image_dir") and folder.is_dir():
            files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
            for path in islice(files, MAX_IMAGES - 1):
                yield str(path), read_image(path)
            break
    rng = np.random.default_rng(0)
    shape = (config["TestReader"].get("inputs_def") or {}).get("image_shape") or [3, -1, -1]
    height, width = (side if isinstance(side, int) and side > 0 else NOISE_SIDE for side in shape[-2:])  # -1 is any
    yield "an image of noise", rng.integers(0, 256, (height, width, 3)).astype(np.uint8)

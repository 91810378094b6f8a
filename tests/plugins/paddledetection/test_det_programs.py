"""Exported detection programs: preprocessing, running, pictures and comparison. No PaddleDetection is needed."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import ROOT, assert_one_line_and_exit_2, refused
from PIL import Image

from ppreplk.plugins.paddledetection import DetectionPredictor
from ppreplk.plugins.paddledetection.det_export import BOX_TOLERANCE, SCORE_TOLERANCE, Agreement, compare
from ppreplk.plugins.paddledetection.det_patches import PaddleOfBefore, draw_boxes
from ppreplk.plugins.paddledetection.det_predictor import detections_of
from ppreplk.plugins.paddledetection.det_transforms import Preprocessing
from ppreplk.plugins.pictures import Detections, class_palette

RESIZE = {"type": "Resize", "interp": 1, "keep_ratio": True, "target_size": [40, 60]}
NORMALIZE = {"type": "NormalizeImage", "is_scale": True, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
TRANSFORMS = [RESIZE, NORMALIZE, {"type": "Permute"}, {"type": "PadStride", "stride": 32}]


def picture(height=30, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------------
# Preprocessing


def test_an_image_is_resized_normalized_and_padded():
    prepared = Preprocessing(TRANSFORMS, "here")(picture())
    assert prepared.shape == (36, 60) and prepared.scale == (1.2, 1.2)
    batch = prepared.batch()
    assert {name: array.shape for name, array in batch.items()} == {
        "image": (1, 3, 64, 64),
        "im_shape": (1, 2),
        "scale_factor": (1, 2),
    }
    assert all(array.dtype == np.float32 for array in batch.values())
    assert batch["image"][0, :, 36:].max() == batch["image"][0, :, :, 60:].max() == 0


def test_values_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    for height, width in ((30, 50), (90, 70), (41, 200)):
        image = picture(height, width)
        prepared = Preprocessing([RESIZE], "here")(image)
        down, across = prepared.scale  # as PaddleDetection calls it
        expected = cv2.resize(image, None, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR).astype(int)
        difference = np.abs(prepared.image.astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.2  # OpenCV rounds its weights to 11 bits


def test_normalization_is_that_of_the_formula():
    image = picture()
    prepared = Preprocessing([NORMALIZE, {"type": "Permute"}], "here")(image)
    expected = (image / 255.0 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert np.abs(prepared.image - expected.transpose(2, 0, 1)).max() < 1e-5


@pytest.mark.parametrize(
    "keep, size, shape",
    [
        (True, (30, 50), (36, 60)),
        (True, (100, 100), (40, 40)),
        (True, (10, 200), (3, 60)),
        (False, (30, 50), (40, 60)),
    ],
)
def test_the_longer_side_is_limited(keep, size, shape):
    prepared = Preprocessing([{**RESIZE, "keep_ratio": keep}], "here")(picture(*size))
    assert prepared.image.shape[:2] == shape == prepared.shape
    assert prepared.scale == pytest.approx((shape[0] / size[0], shape[1] / size[1]), rel=0.02)


@pytest.mark.parametrize(
    "entry",
    [
        "Resize",
        {"keep_ratio": True},
        {"type": "Resized"},
        {"type": "Resize"},
        {**RESIZE, "interp": 2},
        {**RESIZE, "target_size": [0, 3]},
        {**NORMALIZE, "std": [0, 1, 1]},
        {"type": "Permute", "to_bgr": True},
    ],
)
def test_what_is_not_served_is_refused_by_its_place(entry):
    with refused("plugins.bad-transform", "Preprocess[1]"):
        Preprocessing([{"type": "Permute"}, entry], "infer_cfg.yml")


# ----------------------------------------------------------------------------------------------------------------------
# Running


class Detector(paddle.nn.Layer):
    """Says fixed boxes, scaled back to the image, and a mask for each; one row says that it is nothing."""

    def __init__(self):
        super().__init__()
        rows = [[1, 0.4, 5, 6, 20, 24], [-1, 0.0, 0, 0, 1, 1], [2, 0.9, 10, 3, 40, 28]]
        self.rows = self.create_parameter([3, 6], default_initializer=paddle.nn.initializer.Assign(np.array(rows)))

    def forward(self, inputs):
        scale = inputs["scale_factor"][0, 0] + inputs["image"].mean() * 0
        boxes = paddle.concat([self.rows[:, :2], self.rows[:, 2:] * scale / scale], axis=1)
        size = inputs["im_shape"][0] / inputs["scale_factor"][0] + 0.5
        down = paddle.arange(0, 31, dtype="float32").reshape([1, -1, 1]) + size.sum() * 0
        across = paddle.arange(0, 51, dtype="float32").reshape([1, 1, -1])
        edges = [self.rows[:, index].reshape([-1, 1, 1]) for index in range(2, 6)]
        inside = (across >= edges[0]) & (down >= edges[1]) & (across < edges[2]) & (down < edges[3])
        return {
            "bbox": boxes,
            "bbox_num": paddle.to_tensor([3]) + 0 * scale.astype("int64"),
            "mask": inside.astype("int32"),
        }


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A folder as an export leaves it."""
    folder = tmp_path_factory.mktemp("exported")
    specification = {
        "image": paddle.static.InputSpec([None, 3, None, None], "float32", "image"),
        "im_shape": paddle.static.InputSpec([None, 2], "float32", "im_shape"),
        "scale_factor": paddle.static.InputSpec([None, 2], "float32", "scale_factor"),
    }
    detector = Detector()
    detector.eval()
    paddle.jit.save(paddle.jit.to_static(detector, [specification], full_graph=True), str(folder / "model"))
    description = {
        "arch": "RCNN",
        "mask": True,
        "draw_threshold": 0.5,
        "Preprocess": TRANSFORMS,
        "label_list": ["no", "disc", "wedge"],
    }
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(description))
    return folder


def test_a_program_finds_boxes_and_masks_in_the_pixels_of_the_image(program, tmp_path):
    predictor = DetectionPredictor(program, threads=1)
    assert predictor.names == ["no", "disc", "wedge"] and predictor.threshold == 0.5
    image = picture()
    found = predictor(image)
    assert found.classes.tolist() == [2, 1]
    assert found.scores == pytest.approx([0.9, 0.4])
    assert np.abs(found.boxes - [[10, 3, 40, 28], [5, 6, 20, 24]]).max() < 1e-4
    assert found.masks.shape == (2, 30, 50) and found.masks[0].sum() == 30 * 25
    Image.fromarray(image).save(tmp_path / "image.png")
    again = predictor(tmp_path / "image.png")
    assert np.array_equal(found.boxes, again.boxes) and np.array_equal(found.masks, again.masks)


def test_a_picture_shows_what_has_the_score(program):
    predictor = DetectionPredictor(program, threads=1)
    image = picture()
    drawn = np.asarray(predictor.picture(image)).astype(int)
    blended = (image[20, 30].astype(int) + class_palette()[2]) / 2
    assert np.abs(drawn[20, 30] - blended).max() <= 1
    assert np.array_equal(drawn[20, 6], image[20, 6])  # in the other box, whose score is low
    lower = np.asarray(predictor.picture(image, threshold=0.3)).astype(int)
    assert not np.array_equal(lower[20, 6], image[20, 6])


def test_the_command_draws_a_folder(program, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.fromarray(picture(seed=index)).save(tmp_path / "images" / f"{index}.png")
    process = launch("run", "--model-dir", program, "--images", "images", "--output", "drawn", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["0.png", "1.png"]
    assert process.stdout.split() == ["drawn/0.png", "drawn/1.png"]


@pytest.mark.parametrize(
    "missing, code",
    [("infer_cfg.yml", "plugins.no-program"), ("model.json", "plugins.no-program")],
)
def test_a_missing_file_is_named(program, tmp_path, missing, code):
    for path in program.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with refused(code, missing):
        DetectionPredictor(tmp_path)


def test_a_predictor_loads_neither_networks_nor_the_suite(program):
    script = (
        "import sys; from ppreplk.plugins.paddledetection import DetectionPredictor; "
        f"DetectionPredictor({str(program)!r}, threads=1); "
        "print([m for m in sys.modules if m.startswith(('ppreplk.models', 'ppreplk.nn', 'ppdet'))])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=env())
    assert process.stdout.strip().endswith("[]"), process.stdout + process.stderr


def test_nothing_found_is_no_detection():
    found = detections_of([np.array([[-1.0, 0, 0, 0, 1, 1]]), np.array([1]), np.full((1, 4, 5), -1)], (4, 5), True)
    assert len(found.scores) == 0 and found.masks.shape == (0, 4, 5)


# ----------------------------------------------------------------------------------------------------------------------
# Comparing program and network

BOXES = np.array([[10.0, 10, 50, 50], [20, 30, 80, 90], [12, 11, 52, 49]])
FOUND = Detections(BOXES, np.array([0, 1, 0]), np.array([0.9, 0.6, 0.3]), np.zeros((3, 100, 100), bool))
FOUND.masks[:, 20:40, 20:40] = True


def test_equal_detections_agree_in_any_order():
    order = [2, 0, 1]
    other = Detections(*(array[order] for array in FOUND))
    assert compare(other, FOUND, 100, "image") == Agreement(3, 0.0, 0.0, 0.0)


def test_small_differences_are_measured():
    near = FOUND._replace(boxes=BOXES + 0.4 * BOX_TOLERANCE * 100, scores=FOUND.scores - 0.5 * SCORE_TOLERANCE)
    agreement = compare(near, FOUND, 100, "image")
    assert agreement.boxes == 3
    assert agreement.score == pytest.approx(0.5 * SCORE_TOLERANCE) and agreement.edge == pytest.approx(0.004, rel=1e-3)


def test_the_least_may_be_missing_and_no_other():
    less = Detections(*(array[:2] for array in FOUND))
    assert compare(less, FOUND, 100, "image").boxes == compare(FOUND, less, 100, "image").boxes == 2
    wrong = Detections(*(array[[0, 2]] for array in FOUND))
    for said, expected in ((wrong, FOUND), (FOUND, wrong)):
        with refused("plugins.wrong-program", "class 1 with 0.6000"):
            compare(said, expected, 100, "image")


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": BOXES + 2 * BOX_TOLERANCE * 100},
        {"scores": FOUND.scores + 2 * SCORE_TOLERANCE},
        {"classes": np.array([0, 2, 0])},
        {"masks": ~FOUND.masks},
    ],
)
def test_a_wrong_program_is_refused(change):
    with refused("plugins.wrong-program", "image"):
        compare(FOUND._replace(**change), FOUND, 100, "image")


# ----------------------------------------------------------------------------------------------------------------------
# The launcher without PaddleDetection


def env(**more):
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PADDLEDETECTION": "", **more}


def launch(*arguments, cwd: Path, **more):
    command = [sys.executable, "-m", "ppreplk.plugins.paddledetection", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=env(**more))


def test_a_checkout_that_is_none_is_refused_in_one_line(tmp_path):
    process = launch("train", "-c", "c.yml", "--checkout", tmp_path, cwd=tmp_path)
    assert_one_line_and_exit_2(process, "is no checkout of PaddleDetection", code="plugins.no-checkout")


def test_an_unknown_command_names_the_nearest(tmp_path):
    process = launch("evaluate", cwd=tmp_path)
    assert process.returncode == 2 and "did you mean" in process.stderr and "eval" in process.stderr


def test_digits_are_written_in_cocos_format(tmp_path):
    process = launch("digits", "digits", "--train", 3, "--val", 2, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "digits" / "train").glob("*.png"))) == 3
    assert (tmp_path / "digits" / "annotations" / "instances_val.json").is_file()


def test_oneDNNs_fault_is_said_once(program, caplog):
    from ppreplk.plugins.suite_programs import onednn_cannot_interpolate

    onednn_cannot_interpolate.cache_clear()
    with caplog.at_level(logging.INFO):
        DetectionPredictor(program, threads=1)
        DetectionPredictor(program, threads=1)
    assert sum("cannot interpolate" in record.message for record in caplog.records) <= 1


# ----------------------------------------------------------------------------------------------------------------------
# What stands in for parts of PaddleDetection


def test_numbers_of_boxes_are_joined_whether_or_not_they_have_a_dimension():
    old = PaddleOfBefore()
    mixed = [paddle.to_tensor(2), paddle.to_tensor([3]), paddle.to_tensor(4)]
    assert old.concat(mixed).tolist() == [2, 3, 4]
    rows = [paddle.ones([1, 2]), paddle.zeros([2, 2])]
    assert old.concat(rows, axis=0).shape == [3, 2]
    assert old.shape(rows[1])[0] == 2 and old.float32 is paddle.float32


def test_boxes_of_one_image_are_drawn_above_the_threshold():
    image = Image.fromarray(np.full((60, 60, 3), 128, np.uint8))
    rows = [
        {"image_id": 7, "category_id": 3, "bbox": [10.0, 20.0, 15.0, 15.0], "score": 0.9},
        {"image_id": 7, "category_id": 1, "bbox": [40.0, 40.0, 10.0, 10.0], "score": 0.2},
        {"image_id": 8, "category_id": 1, "bbox": [40.0, 45.0, 10.0, 10.0], "score": 0.9},
    ]
    drawn = np.asarray(draw_boxes(image, 7, {1: "disc", 3: "wedge"}, rows, 0.5)).astype(int)
    assert drawn[34, 24].tolist() == class_palette()[1].tolist()  # the second category
    assert (drawn[36:] == 128).all()  # neither the one with a low score nor that of another image

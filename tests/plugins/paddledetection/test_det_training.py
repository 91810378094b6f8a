"""PaddleDetection's own tools with our networks, on a tiny data set in COCO's format.

The slow ones train until 8 images are known by heart, evaluate, export and predict. With a checkout of the develop
branch in PADDLEDETECTION all of it runs, with wheel 2.6.0 all but the export:

    PADDLEDETECTION=... python -m pytest -m "slow or not slow" tests/plugins/paddledetection
"""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from detection_helpers import cascade_config, fcos_config, run_suite, write_coco, write_yaml
from helpers import GOLDEN, assert_one_line_and_exit_2

from ppreplk.plugins.paddledetection import DetectionPredictor
from ppreplk.plugins.paddledetection.det_suite import SUITE

CHECKOUT = SUITE.find_checkout()
needs_suite = pytest.mark.skipif(
    CHECKOUT is None and importlib.util.find_spec("ppdet") is None, reason="PaddleDetection is not here"
)
CONFIGS = {"cascade": cascade_config, "fcos": fcos_config}


@pytest.fixture
def project(tmp_path):
    """A folder with the data set and both configurations."""
    write_coco(tmp_path / "coco")
    for name, make in CONFIGS.items():
        write_yaml(tmp_path / f"{name}.yml", make(tmp_path / "coco"))
    return tmp_path


@pytest.mark.skipif(
    CHECKOUT is not None or importlib.util.find_spec("ppdet") is not None, reason="PaddleDetection is here"
)
def test_without_the_suite_it_is_one_line(tmp_path):
    process = run_suite("train", "-c", "c.yml", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "pip install paddledet", "PADDLEDETECTION", code="plugins.no-suite")


@needs_suite
@pytest.mark.parametrize(
    "arguments, code, part",
    [
        (["train"], "plugins.bad-config", "-c"),
        (["train", "-c", "none.yml"], "plugins.no-file", "none.yml"),
        (["train", "-c", "coco/annotations.json"], "plugins.bad-config", ".yml"),
        (["train", "-c", "fcos.yml", "-o", "ClippedFCOS.backbone=RepLKNet13"], "plugins.unknown-type", "RepLKNet13T"),
        (["train", "-c", "fcos.yml", "-o", "ClippedFCOSHead.fpn_strides=3"], "plugins.unknown-key", "fpn_stride"),
        (["train", "-c", "fcos.yml", "-o", "architecture=ClipedFCOS"], "plugins.unknown-type", "FCOS"),
        (["train", "-c", "fcos.yml", "-o", "RepLKNet13T.drop_path=1"], "config.unknown-key", "drop_path_rate"),
        (["train", "-c", "fcos.yml", "-o", "RepLKNet13T.pretrained=none"], "checkpoints.no-file", "none"),
        (["train", "-c", "fcos.yml", "-o", "TrainDataset.image_dir=none"], "plugins.no-data", "TrainDataset.image_dir"),
        (["train", "-c", "fcos.yml", "-o", "epoch"], "plugins.bad-override", "epoch"),
        (["train", "-c", "fcos.yml", "-r", "none"], "plugins.no-file", "none"),
        (["infer", "-c", "fcos.yml", "-o", "weights=none"], "plugins.missing-argument", "--infer_img"),
        (["eval", "-c", "fcos.yml"], "checkpoints.none-named", "-o weights=FILE"),
        (["eval", "-c", "fcos.yml", "-o", "weights=none"], "checkpoints.no-file", "none"),
        (["eval", "-c", "fcos.yml", "-o", "weights=https://x/y"], "plugins.bad-path", "downloaded"),
        (["infer", "-c", "fcos.yml", "-o", "weights=w", "--infer_img", "none.png"], "plugins.no-file", "none.png"),
        (["export", "-c", "fcos.yml", "-o", "weights=w", "--for_fd"], "plugins.export-argument", "--for_fd"),
    ],
)
def test_wrong_input_is_one_line(project, arguments, code, part):
    assert_one_line_and_exit_2(run_suite(*arguments, cwd=project), part, code=code)


@needs_suite
def test_help_is_the_tools_own(tmp_path):
    process = run_suite("train", "--help", cwd=tmp_path)
    assert process.returncode == 0 and "--eval" in process.stdout


@needs_suite
def test_weights_of_another_network_are_refused(project):
    import paddle

    paddle.save({"backbone.stem.0.conv.weight": paddle.zeros([2, 3, 3, 3])}, str(project / "other.pdparams"))
    process = run_suite("eval", "-c", "fcos.yml", "-o", "weights=other.pdparams", cwd=project)
    assert_one_line_and_exit_2(process, "missing", "1 mis-shaped", code="checkpoints.other-architecture")
    process = run_suite("eval", "-c", "fcos.yml", "-o", f"weights={GOLDEN / 'tiny_fcos.pth'}", cwd=project)
    assert_one_line_and_exit_2(process, "--for paddledetection", code="checkpoints.other-architecture")


def average_precisions(text: str) -> list[float]:
    """AP over all sizes: of boxes, then of masks."""
    pattern = r"Average Precision +\(AP\) @\[ IoU=0.50:0.95 \| area= +all \| maxDets=100 \] = ([0-9.]+)"
    return [float(value) for value in re.findall(pattern, text)]


def weights_of(project: Path, name: str) -> str:
    """Where PaddleDetection has left them: newer ones have no folder for each configuration."""
    [path] = sorted((project / "output").rglob("model_final.pdparams"))
    return str(path)


@needs_suite
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name, wanted", [("cascade", [0.8, 0.65]), ("fcos", [0.8])])
def test_eight_images_are_learnt_evaluated_exported_and_found_again(project, name, wanted):
    trained = run_suite("train", "-c", f"{name}.yml", "--eval", cwd=project)
    assert trained.returncode == 0, (trained.stdout[-3000:], trained.stderr[-3000:])
    reached = average_precisions(trained.stdout + trained.stderr)
    print(f"{name}: AP {reached} of boxes and masks")
    assert len(reached) == len(wanted) and all(one > least for one, least in zip(reached, wanted))
    weights = weights_of(project, name)
    again = run_suite("eval", "-c", f"{name}.yml", "-o", f"weights={weights}", cwd=project)
    assert average_precisions(again.stdout + again.stderr) == pytest.approx(reached, abs=0.002)

    drawn = run_suite(
        *("infer", "-c", f"{name}.yml", "-o", f"weights={weights}"),
        *("--infer_img", "coco/images/0.png", "--output_dir", "drawn"),
        cwd=project,
    )
    assert drawn.returncode == 0 and (project / "drawn" / "0.png").is_file(), drawn.stderr[-3000:]

    exported = run_suite("export", "-c", f"{name}.yml", "-o", f"weights={weights}", "--output_dir", "out", cwd=project)
    if CHECKOUT is None:
        assert_one_line_and_exit_2(exported, "develop", code="plugins.no-checkout")
        return
    assert exported.returncode == 0, exported.stderr[-3000:]
    said = re.search(r"verified on \S+0\.png: (\d+) boxes.*", exported.stdout + exported.stderr)
    assert said is not None and int(said[1]) >= 2
    print(said[0])
    assert sorted(path.name for path in (project / "out").iterdir()) == [name]
    check_program(project, DetectionPredictor(project / "out" / name, threads=2))


def check_program(project: Path, predictor: DetectionPredictor) -> None:
    """Every object of the data set is found with a high score, and nothing else."""
    content = json.loads((project / "coco" / "annotations.json").read_text())
    overlaps = []
    for image in content["images"]:
        found = predictor(project / "coco" / "images" / image["file_name"])
        true = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        kept = [index for index in range(len(found.scores)) if found.scores[index] > 0.5]
        assert len(kept) == len(true)
        for each in true:
            left, top, width, height = each["bbox"]
            box = np.array([left, top, left + width, top + height])
            index = max(kept, key=lambda one: _overlap(found.boxes[one], box))
            assert predictor.names[found.classes[index]] == content["categories"][each["category_id"] - 1]["name"]
            overlaps.append(_overlap(found.boxes[index], box))
            if found.masks is not None:
                inside = found.masks[index]
                rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
                around = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                assert _overlap(around, box) > 0.7
    assert min(overlaps) > 0.7 and np.mean(overlaps) > 0.85


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(sides.prod() / (sum(areas) - sides.prod()))

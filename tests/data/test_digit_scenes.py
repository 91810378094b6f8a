"""Scenes of digits: what they show, what makes them, and the two formats that they are written in."""

import json
import os

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from ppreplk.data import digit_scenes
from ppreplk.data.digit_scenes import CLASSES, SceneMaker, polygons, write_coco, write_segmentation


def test_a_scene_says_where_its_digits_are():
    counts = set()
    for scene in SceneMaker("train", seed=3).scenes(30):
        counts.add(len(scene.digits))
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (96, 96) and scene.mask.dtype == np.uint8
        assert (scene.instances.sum(axis=0) <= 1).all(), "digits do not overlap"
        assert ((scene.mask > 0) == scene.instances.any(axis=0)).all()
        for digit, box, covered in zip(scene.digits, scene.boxes, scene.instances):
            assert (scene.mask[covered] == 1 + digit).all() and CLASSES[1 + digit] == digit_scenes.NAMES[digit]
            left, top, right, bottom = box
            assert covered[top:bottom, left:right].sum() == covered.sum() > 100
            assert all(edge.any() for edge in (covered[top], covered[bottom - 1], covered[:, left]))
            assert covered[:, right - 1].any() and right - left <= 40 and bottom - top <= 40
        brightness = scene.image[..., 0]
        assert brightness[scene.mask > 0].mean() > brightness[scene.mask == 0].mean() + 50
        assert brightness[scene.mask == 0].std() > 30, "the background is noise"
    assert counts == {1, 2, 3, 4}


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = SceneMaker("train", seed=1).scene(5)
    again = list(SceneMaker("train", seed=1).scenes(6))[5]
    assert all((one == other).all() for one, other in zip(first, again))
    for other in (SceneMaker("train", seed=2), SceneMaker("val", seed=1)):
        assert (other.scene(5).image != first.image).any()
    assert (SceneMaker("train", seed=1).scene(6).image != first.image).any()
    assert all(len(scene.digits) == 1 for scene in SceneMaker("train", most=1).scenes(10))
    assert max(len(scene.digits) for scene in SceneMaker("val", side=192).scenes(10)) > 4


def test_the_splits_have_no_digit_in_common():
    train, val = (SceneMaker(split) for split in ("train", "val"))
    assert len(train.images) == 1437 and len(val.images) == 360
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in val.images}


def test_a_segmentation_set_lists_images_and_masks(tmp_path, caplog):
    folder = tmp_path / "new" / "scenes"
    write_segmentation(folder, train=5, val=2, seed=4)
    for split, count in {"train": 5, "val": 2}.items():
        lines = (folder / f"{split}.txt").read_text().splitlines()
        assert len(lines) == count
        for scene, line in zip(SceneMaker(split, seed=4).scenes(count), lines):
            image, label = (Image.open(folder / name) for name in line.split(" "))
            assert image.mode == "RGB" and (np.asarray(image) == scene.image).all()
            assert label.mode == "L" and (np.asarray(label) == scene.mask).all()
    assert (folder / "labels.txt").read_text().split() == list(CLASSES) and len(CLASSES) == 11
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert len(written) == 14
    with caplog.at_level("INFO"):
        write_segmentation(folder, train=5, val=2, seed=4)
    assert "the scenes are there" in caplog.text
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    for other in ({"seed": 5}, {"seed": 4, "side": 128}):
        with refused("data.occupied-folder", str(folder), "name another place"):
            write_segmentation(folder, train=5, val=2, **other)
    with refused("data.occupied-folder"):
        write_coco(folder, train=5, val=2, seed=4)
    assert os.listdir(tmp_path / "new") == ["scenes"]


def test_a_coco_set_has_boxes_areas_and_polygons(tmp_path):
    write_coco(tmp_path / "scenes", train=3, val=4, seed=4)
    content = json.loads((tmp_path / "scenes" / "annotations" / "instances_val.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(digit_scenes.NAMES)
    assert [category["id"] for category in content["categories"]] == list(range(1, 11))
    assert len(content["images"]) == 4 and len(os.listdir(tmp_path / "scenes" / "train")) == 3
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for described, scene in zip(content["images"], SceneMaker("val", seed=4).scenes(4)):
        image = np.asarray(Image.open(tmp_path / "scenes" / "val" / described["file_name"]))
        assert (image == scene.image).all() and image.shape[:2] == (described["height"], described["width"])
        found = [each for each in content["annotations"] if each["image_id"] == described["id"]]
        assert [each["category_id"] - 1 for each in found] == list(scene.digits)
        for each, box, covered in zip(found, scene.boxes, scene.instances):
            left, top, width, height = each["bbox"]
            assert [left, top, left + width, top + height] == list(box)
            assert each["area"] == covered.sum() and each["iscrowd"] == 0
            assert each["segmentation"] and all(len(polygon) >= 6 for polygon in each["segmentation"])


def area(polygon) -> float:
    x, y = np.reshape(polygon, (-1, 2)).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_polygons_cover_holes_and_several_parts_exactly():
    ring = np.ones((5, 6), bool)
    ring[2, 2:4] = False
    two = np.zeros((6, 6), bool)
    two[:2, :2] = two[4:, 3:] = two[2, 2] = True
    shapes = [ring, two, np.random.default_rng(0).random((20, 20)) < 0.5, np.ones((1, 1), bool)]
    for shape in [*shapes, *SceneMaker("val").scene(0).instances]:
        assert sum(map(area, polygons(shape))) == shape.sum()
    assert polygons(np.zeros((3, 3), bool)) == []
    assert polygons(np.ones((2, 3), bool)) == [[0, 0, 0, 2, 3, 2, 3, 0]]


def test_pycocotools_reads_the_polygons_back_to_the_pixel(tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    write_coco(tmp_path / "scenes", train=20, val=1)
    api = coco.COCO(str(tmp_path / "scenes" / "annotations" / "instances_train.json"))
    checked = 0
    for index, scene in enumerate(SceneMaker("train").scenes(20)):
        annotations = api.loadAnns(api.getAnnIds(imgIds=[index + 1]))
        assert len(annotations) == len(scene.digits)
        for annotation, covered in zip(annotations, scene.instances):
            assert (api.annToMask(annotation).astype(bool) == covered).all()
            checked += 1
    assert checked > 20


def test_a_folder_that_cannot_be_completed_does_not_appear(tmp_path, monkeypatch):
    def fail(self, index):
        if index == 2:
            raise OSError(28, "No space left on device")
        return real(self, index)

    real = SceneMaker.scene
    monkeypatch.setattr(SceneMaker, "scene", fail)
    for write in (write_segmentation, write_coco):
        with refused("data.not-writable", "cannot write the scenes of digits", "No space left on device"):
            write(tmp_path / "scenes", train=3, val=1)
        assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    with refused("data.occupied-folder"):
        write_segmentation(tmp_path / "file")
    with refused("data.not-writable"):
        write_segmentation(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    "arguments, part",
    [
        ({"train": 0}, "scenes to write to train must be at least 1, got 0"),
        ({"val": -1}, "scenes to write to val must be at least 1, got -1"),
        ({"seed": -1}, "the seed must be at least 0, got -1"),
        ({"side": 40}, "the side of a scene must be from 48 to 2048, got 40"),
    ],
)
def test_what_is_out_of_range_is_refused_before_anything_is_written(tmp_path, arguments, part):
    for write in (write_segmentation, write_coco):
        with refused("data.scene-argument", part):
            write(tmp_path / "scenes", **arguments)
    assert os.listdir(tmp_path) == []


def test_an_unknown_split_is_refused():
    with refused("data.scene-argument", "train and val, got 'test'"):
        SceneMaker("test")
    with refused("data.scene-argument", "digits in a scene must be at least 1"):
        SceneMaker("train", most=0)

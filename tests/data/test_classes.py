"""Data sets of one training number their classes alike, or are refused."""

import pytest
from helpers import refused

from ppreplk.data import ImageFolderDataset, ImageNetDataset, Pipeline
from ppreplk.data.classes import check_same_classes


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "0.png").touch()
    return ImageFolderDataset(str(root), Pipeline([]), len(names)).classes


def listed(root, *labels, relabel=True, class_num=1000):
    for label in labels:
        (root / f"{label}.png").touch()
    (root / "list.txt").write_text("".join(f"{label}.png {label}\n" for label in labels))
    return ImageNetDataset(str(root), str(root / "list.txt"), Pipeline([]), class_num, relabel=relabel).classes


def test_names_of_classes(tmp_path):
    assert folders(tmp_path / "train", "bee", "ant", "Cat") == ["Cat", "ant", "bee"]
    assert listed(tmp_path, 30, 10, 20) == ["10", "20", "30"]
    assert listed(tmp_path, 2, 0, 1) is None, "relabel changes nothing"
    assert listed(tmp_path, 30, 10, relabel=False) is None


@pytest.mark.parametrize(
    "classes, expected, parts",
    [
        (["b", "c", "d"], ["a", "b", "c"], ["without 'a', with 'd' instead"]),
        (["ant", "cat"], ["Cat", "ant"], ["without 'Cat', with 'cat' instead"]),
        (["a", "b", "c "], ["a", "b", "c"], ["without 'c', with 'c ' instead"]),
        (["10", "30"], ["10", "20", "30"], ["without '20'"]),
        (["a", "b"], ["a"], ["with 'b' too"]),
        (["b", "a"], ["a", "b"], ["in another order, class 0 is 'b' and not 'a'"]),
        ([str(each) for each in range(9)], ["0"], ["'1', '2', '3', '4', '5' and 3 more"]),
    ],
)
def test_other_classes_are_named(classes, expected, parts):
    with refused("data.other-classes", "val: ", "train", *parts):
        check_same_classes(classes, "val", expected, "train")
    check_same_classes(classes, "val", list(classes), "train")


def test_names_against_numbers():
    check_same_classes(None, "val.txt", None, "train.txt")
    check_same_classes(None, "val.txt", ["ant", "bee"], "train")
    check_same_classes(["0", "1"], "val", None, "train.txt")
    check_same_classes(["00", "01"], "val", None, "train.txt")
    for pair in ((["10", "20"], "a.txt", None, "b.txt"), (None, "b.txt", ["10", "20"], "a.txt")):
        with refused("data.other-classes", "a.txt counts classes 10 as 0, 20 as 1, but b.txt", "relabel"):
            check_same_classes(*pair)
    with refused("data.other-classes", "folders counts classes 10 as 2, 2 as 3"):
        check_same_classes(["0", "1", "10", "2"], "folders", None, "list.txt")

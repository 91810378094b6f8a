"""List files of ImageNet: labels from the sorted names of the class folders, for train, and for val of either kind."""

from pathlib import Path

import pytest
from helpers import refused

from ppreplk.cli import main
from ppreplk.data import read_list
from ppreplk.data.imagenet_lists import write_imagenet_lists

WNIDS = ("n02099601", "n01440764", "n13133613")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Three classes, which a file system may list in any order; no file has pixels, because none is opened."""
    monkeypatch.chdir(tmp_path)
    for wnid in WNIDS:
        write(f"imagenet/train/{wnid}", f"{wnid}_1.JPEG", f"{wnid}_2.JPEG", "notes.txt")
    return tmp_path


def write(place: str, *names: str) -> None:
    Path(place).mkdir(parents=True)
    for name in names:
        Path(place, name).write_bytes(b"")


def flat_val() -> None:
    write("imagenet/val", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")


def lines(name: str) -> list[str]:
    return Path("imagenet", name).read_text().splitlines()


def test_labels_are_the_places_of_the_sorted_wnids():
    for wnid in WNIDS:
        write(f"imagenet/val/{wnid}", "ILSVRC2012_val_00000001.JPEG")
    assert main(["check-data", "--imagenet", "imagenet"]) == 0
    assert lines("labels.txt") == ["0 n01440764", "1 n02099601", "2 n13133613"]
    assert lines("train_list.txt")[:3] == [
        "train/n01440764/n01440764_1.JPEG 0",
        "train/n01440764/n01440764_2.JPEG 0",
        "train/n02099601/n02099601_1.JPEG 1",
    ]
    assert lines("val_list.txt")[2] == "val/n13133613/ILSVRC2012_val_00000001.JPEG 2"
    assert len(read_list("imagenet", "imagenet/train_list.txt", 3)) == 6
    assert len(read_list("imagenet", "imagenet/val_list.txt", 3)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n13133613 85 1 499 272 \n"
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8 \n",
        "ILSVRC2012_val_00000001.JPEG n01440764\nILSVRC2012_val_00000002.JPEG n13133613\n",
    ],
    ids=["LOC_val_solution.csv", "name and class"],
)
def test_a_flat_val_takes_its_classes_from_a_file(text):
    flat_val()
    Path("labels.csv").write_text(text)
    write_imagenet_lists("imagenet", "labels.csv")
    assert lines("val_list.txt") == ["val/ILSVRC2012_val_00000001.JPEG 0", "val/ILSVRC2012_val_00000002.JPEG 2"]


def test_without_val_there_is_one_list():
    """As for ImageNet-22K, which has no images to validate on."""
    text = write_imagenet_lists("imagenet")
    assert "6 images" in text and "note: 3 classes; ImageNet-1K 1000 and ImageNet-22K 21841" in text
    assert not Path("imagenet/val_list.txt").exists()


def test_what_has_no_class_is_refused_and_nothing_is_written():
    flat_val()
    with refused("data.val-labels", "--val-labels"):
        write_imagenet_lists("imagenet")
    Path("labels.csv").write_text("ILSVRC2012_val_00000001 n01440764\n")
    with refused("data.no-label", "ILSVRC2012_val_00000002"):
        write_imagenet_lists("imagenet", "labels.csv")
    Path("labels.csv").write_text("490\n361\n")
    with refused("data.bad-line", "devkit", "line 1"):
        write_imagenet_lists("imagenet", "labels.csv")
    Path("labels.csv").write_text("ILSVRC2012_val_00000001 n99\n")
    with refused("data.other-classes", "n99"):
        write_imagenet_lists("imagenet", "labels.csv")
    assert sorted(path.name for path in Path("imagenet").iterdir()) == ["train", "val"]


def test_other_classes_in_val_and_lists_that_are_there_are_refused():
    write("imagenet/val/n01440765", "a.JPEG")
    with refused("data.other-classes", "did you mean n01440764"):
        write_imagenet_lists("imagenet")
    Path("imagenet/val/n01440765").rename("imagenet/val/n01440764")
    with refused("data.val-labels", "needs no file"):
        write_imagenet_lists("imagenet", "labels.csv")
    write_imagenet_lists("imagenet")
    with refused("data.list-exists", "imagenet"):
        write_imagenet_lists("imagenet")


def test_arguments_that_do_not_go_together(capsys):
    assert main(["check-data", "--imagenet", "imagenet", "--split", "0.5"]) == 2
    assert main(["check-data", "--val-labels", "labels.csv"]) == 2
    assert capsys.readouterr().err.count("[command.arguments]") == 2

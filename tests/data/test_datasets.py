"""List files, class folders, images to predict, and the digits."""

import numpy as np
import pytest
from helpers import ROOT, colour_config, refused
from PIL import Image

from ppreplk.config import DatasetConfig, construct, load_config
from ppreplk.data import (
    ImageFolderDataset,
    ImageNetDataset,
    Pipeline,
    build_dataset,
    find_images,
    prepare_dataset,
    prepare_digits,
    read_folders,
    read_list,
)


@pytest.mark.parametrize(
    "line, code, parts",
    [
        ("images/0.png", "data.bad-line", ["'path label'", "'images/0.png'"]),
        ("images/0.png one", "data.bad-line", ["'path label'"]),
        ("images/none.png 1", "data.missing-image", ["data/images/none.png"]),
        ("images/0.png 3", "data.label-out-of-range", ["label 3", "0 to 2", "Arch.class_num is 3"]),
        ("images/0.png -1", "data.label-out-of-range", ["label -1"]),
        ("images/0.png --5", "data.bad-line", ["'path label'"]),
        ("images/0.png ²", "data.bad-line", ["'path label'"]),
    ],
)
def test_bad_lines_are_named(colour_project, monkeypatch, line, code, parts):
    monkeypatch.chdir(colour_project)
    with open("data/train.txt", "a") as file:
        file.write(line + "\n")
    with refused(code, "data/train.txt, line 19: ", *parts):
        read_list("data", "data/train.txt", class_num=3)


def test_unreadable_and_empty_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"caf\xe9.png 0\n")
    with refused("data.missing-image", f"{path}, line 1: ", "save the list as UTF-8"):
        read_list(str(tmp_path), str(path), class_num=1)
    path.write_text("\n")
    with refused("data.no-images", f"list file {path}"):
        read_list(str(tmp_path), str(path), class_num=1)


def test_missing_data_says_what_where_how_and_what_runs(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    parts = ["no list file no/list.txt", "no image folder nowhere", str(colour_project), "path label", "digits.yaml"]
    with refused("data.missing-dataset", *parts):
        read_list("nowhere", "no/list.txt", class_num=3)


def test_delimiter_relabel_and_paths_with_spaces(colour_project):
    images = colour_project / "data" / "images"
    (images / "0.png").rename(images / "a b.png")
    (colour_project / "list.txt").write_text("images/a b.png 7\n\nimages/1.png 3\n")
    root = str(colour_project / "data")
    dataset = ImageNetDataset(root, str(colour_project / "list.txt"), Pipeline([]), class_num=2, relabel=True)
    assert [sample.label for sample in dataset.samples] == [1, 0]
    assert dataset.samples[1].origin.endswith("list.txt, line 3")
    (colour_project / "list.txt").write_text("images/a b.png\t1\n")
    dataset = ImageNetDataset(root, str(colour_project / "list.txt"), Pipeline([]), class_num=2, delimiter="\t")
    assert dataset.samples[0].label == 1


def test_a_folder_per_class(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    for index in range(24):
        folder = colour_project / "classes" / "bac"[index % 3] / "more"
        folder.mkdir(parents=True, exist_ok=True)
        (colour_project / "data" / "images" / f"{index}.png").rename(folder / f"{index}.png")
    dataset = ImageFolderDataset("classes", Pipeline([]), class_num=3)
    assert len(dataset) == 24
    names = {0: "a", 1: "b", 2: "c"}
    assert all(sample.path.startswith(f"classes/{names[sample.label]}/") for sample in dataset.samples)
    with refused("data.class-count", "classes: holds 3 class folders", "Arch.class_num is 4"):
        ImageFolderDataset("classes", Pipeline([]), class_num=4)
    (colour_project / "classes" / "empty").mkdir()
    with refused("data.no-images", "'empty'"):
        ImageFolderDataset("classes", Pipeline([]), class_num=4)
    with refused("data.missing-dataset", "no image folder absent", "one folder per class"):
        ImageFolderDataset("absent", Pipeline([]), class_num=3)


def fill(folder, *names):
    """Empty files. Nothing here reads them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


JUNK = [".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/._0.png", "@eaDir/0.png/thumb.jpg", ".hidden.jpg"]


def test_junk_is_no_data_and_what_is_left_out_is_counted(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "ppreplk")
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "train" / "ant", "0.png", "1.JPG", *JUNK, "a.heic", "b.heic", "c.jfif", "README", "Thumbs.db")
    fill(tmp_path / "train", "bee/more/2.png", "lost.png", ".git/x.png", "__MACOSX/ant/._0.png")
    assert [sample.path for sample in read_folders("train", 2)] == [
        "train/ant/0.png",
        "train/ant/1.JPG",
        "train/bee/more/2.png",
    ]
    assert "train: 3 images, 2 classes; left out: 5 files with other suffixes (none 1, .db 1, .heic 2" in caplog.text
    assert "5 hidden or of the system; beside the class folders: lost.png" in caplog.text
    assert find_images("train/ant") == ["train/ant/0.png", "train/ant/1.JPG"]
    assert "train/ant: 2 images; left out: 5 files with other suffixes" in caplog.text
    fill(tmp_path / "photos", "a.heic", "._b.png")
    with refused("data.no-images", "left out: 1 file with other suffixes (.heic 1), 1 hidden or of the system"):
        find_images("photos")


def test_linked_folders_are_followed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "elsewhere/1.png", "elsewhere/deep/2.png", "data/ant/x.png", "data/ant/z/3.png", "data/bee/y.png")
    links = {"ant/more": "elsewhere", "ant/again": "elsewhere", "ant/a": "data/ant/z", "ant/loop": "data/ant"}
    for link, target in {**links, "cat": "elsewhere/deep"}.items():
        (tmp_path / "data" / link).symlink_to(tmp_path / target)
    found = ["data/ant/again/1.png", "data/ant/again/deep/2.png", "data/ant/x.png", "data/ant/z/3.png"]
    assert sorted(find_images("data/ant")) == found
    samples = read_folders("data", 3)
    assert sorted(sample.path for sample in samples if sample.label == 0) == found
    assert [sample.path for sample in samples if sample.label > 0] == ["data/bee/y.png", "data/cat/2.png"]


def test_stray_class_folders_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "train", "ant/0.png", "bee/0.png", "logs/out.txt")
    with refused(
        "data.class-count", "3 class folders", "class_num is 2", "'ant', 'bee', 'logs'", "no image is in logs"
    ):
        read_folders("train", 2)


@pytest.mark.parametrize(
    "changes, code, parts",
    [
        ({"name": "ImageNetDatast"}, "config.unknown-name", ["'ImageNetDatast'", "did you mean ImageNetDataset"]),
        ({"name": "Cifar10"}, "config.not-served", ["ImageFolderDataset"]),
        ({"delimitr": ","}, "config.unknown-key", ["dataset.delimitr: ", "did you mean delimiter"]),
        ({"relabel": 1}, "config.wrong-type", ["dataset.relabel: ", "true or false"]),
        ({"cls_label_path": "data/none.txt"}, "data.missing-dataset", ["data/none.txt"]),
    ],
)
def test_bad_datasets(colour_project, monkeypatch, changes, code, parts):
    monkeypatch.chdir(colour_project)
    dataset = {**colour_config()["DataLoader"]["Train"]["dataset"], **changes}
    config = construct(DatasetConfig, dataset, "DataLoader.Train.dataset")
    with refused(code, "DataLoader.Train.dataset", *parts):
        build_dataset(config, class_num=3, seed=0)


def test_finding_images(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    assert find_images("data/images/3.png") == ["data/images/3.png"]
    assert len(find_images("data")) == 24
    assert find_images("data/val.txt") == [f"data/images/{index}.png" for index in range(18, 24)]
    assert find_images("data", "data/val.txt") == find_images("data/val.txt")
    with refused("data.missing-image", "Infer.infer_imgs: ", "nothing"):
        find_images("nothing")
    with refused("data.missing-image", "-o Infer.infer_imgs="):
        find_images(None)
    (colour_project / "output").mkdir()
    with refused("data.no-images", "Infer.infer_imgs: ", "output"):
        find_images("output")
    (colour_project / "bad.txt").write_text("data/images/3.png\nmissing.png\n")
    with refused("data.missing-image", "bad.txt, line 2: ", "missing.png"):
        find_images("bad.txt")


def test_the_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    prepare_digits(tmp_path / "digits")
    digits = load_digits()
    train, val = ((tmp_path / "digits" / f"{name}_list.txt").read_text().split("\n")[:-1] for name in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    assert not set(train) & set(val)
    for line in train[::100] + val[::50]:
        name, label = line.split()
        index = int(name[len("images/") : -len(".png")])
        pixels = np.asarray(Image.open(tmp_path / "digits" / name)).astype(float)
        assert digits.target[index] == int(label)
        assert np.abs(pixels - digits.images[index] * 255 / 16).max() <= 0.5
    stamp = (tmp_path / "digits" / "labels.txt").stat().st_mtime_ns
    prepare_digits(tmp_path / "digits")
    assert (tmp_path / "digits" / "labels.txt").stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_digits_do_not_overwrite_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with refused("data.occupied-folder", str(tmp_path)):
        prepare_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_digits_are_not_written_beside_a_mistyped_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["DataLoader.Train.dataset.image_root=mistyped"]
    with refused("data.builtin-dataset", "Train.dataset: ", "mistyped", "./dataset/digits/train_list.txt"):
        prepare_dataset(load_config(ROOT / "configs" / "digits.yaml", overrides))
    assert not any(tmp_path.iterdir())

"""Lists to train and to evaluate on, from class folders."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import refused, run_tool
from image_helpers import picture
from PIL import Image

from ppreplk.cli import main
from ppreplk.config import PostProcessConfig
from ppreplk.data import read_list
from ppreplk.data.splitting import split_folder
from ppreplk.deploy.class_names import read_class_names

SIZES = {"a bee": 10, "cat": 2, "dog": 1, "emu": 37}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, (name, count) in enumerate(SIZES.items()):
        os.makedirs(f"images/{name}/sub")
        for number in range(count):
            Image.fromarray(picture(6, 7, seed=100 * place + number)).save(f"images/{name}/sub/no {number}.png")
    return tmp_path


def split(output="lists", share=0.8, seed=0):
    split_folder("images", output, share, seed, workers=1)
    lists = (read_list("images", f"{output}/{name}_list.txt", len(SIZES)) for name in ("train", "val"))
    return [[(sample.path, sample.label) for sample in samples] for samples in lists]


def test_each_class_is_split_by_itself(folder):
    train, held_out = split()
    assert [[label for _, label in part].count(each) for part in (train, held_out) for each in range(4)] == [
        *(8, 1, 1, 30),
        *(2, 1, 0, 7),
    ]
    paths = [path for path, _ in train + held_out]
    assert len(set(paths)) == len(paths) == sum(SIZES.values())
    assert all(Path(path).parts[1] == list(SIZES)[label] for path, label in train + held_out)
    names = read_class_names(PostProcessConfig(class_id_map_file="lists/labels.txt"))
    assert names == list(SIZES)


def test_lists_are_a_function_of_the_seed():
    assert split("one") == split("two") != split("three", seed=1)
    assert Path("one/train_list.txt").read_bytes() == Path("two/train_list.txt").read_bytes()


def test_a_class_of_two_is_in_both_lists_whatever_the_share():
    for place, share in enumerate((0.01, 0.99)):
        for part in split(f"lists{place}", share):
            assert {0, 1, 3} <= {label for _, label in part}


def test_every_picture_is_in_the_lists_once(caplog):
    shutil.copy("images/emu/sub/no 3.png", "images/emu/again.png")
    Image.open("images/emu/sub/no 4.png").save("images/emu/again.bmp")
    shutil.copy("images/a bee/sub/no 0.png", "images/cat/bee.png")
    Path("images/cat/broken.png").write_bytes(b"broken")
    train, held_out = split()
    pictures = [Image.open(path).tobytes() for path, _ in train + held_out]
    assert len(set(pictures)) == len(pictures) == sum(SIZES.values()) - 1
    text = caplog.text
    assert "left out: 2 copies" in text and "left out: 2 images that several classes have" in text
    assert "images/cat/broken.png: cannot be decoded" in text


def test_nothing_is_overwritten():
    Path("lists").mkdir()
    Path("lists/labels.txt").write_text("mine")
    with refused("data.list-exists", "lists/labels.txt"):
        split()
    assert os.listdir("lists") == ["labels.txt"] and Path("lists/labels.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [" blank.png", "line\nend.png"])
def test_names_that_no_list_can_hold(name):
    os.makedirs("images/emu/ x", exist_ok=True)
    Image.fromarray(picture(seed=5000)).save(f"images/emu/{name}")
    if name.startswith(" "):  # only at the beginning of a line is a blank lost
        split()
        return
    with refused("data.unlistable-name", "end.png"):
        split()
    assert not os.path.exists("lists/train_list.txt")


def test_a_class_that_begins_with_a_blank():
    os.rename("images/emu", "images/ emu")
    with refused("data.unlistable-name", " emu"):
        split()


def test_folders_without_images():
    with refused("data.missing-dataset", "nowhere"):
        split_folder("nowhere", "lists", 0.8, 0, 1)
    with refused("data.no-images", "holds no class folder"):
        split_folder("images/emu/sub", "lists", 0.8, 0, 1)
    os.makedirs("images/empty")
    with refused("data.no-images", "images/empty"):
        split()


def test_the_tool(folder):
    options = ["--split", "0.8", "--images", "images", "--output", "lists", "--workers", "2"]
    process = run_tool("check-data", *options, cwd=folder)
    assert process.returncode == 0, process.stderr
    assert "wrote lists/train_list.txt: 40 images" in process.stdout and "-o Arch.class_num=4" in process.stdout


@pytest.mark.parametrize(
    "arguments", [["--split", "0.8"], [], ["--split", "0.5", "-c", "x.yaml"], ["-c", "x.yaml", "--images", "x"]]
)
def test_arguments_that_do_not_go_together(arguments, capsys):
    assert main(["check-data", *arguments]) == 2
    assert capsys.readouterr().err.endswith(" [command.arguments]\n")


@pytest.mark.parametrize("share", ["0", "1", "1.5", "many", "nan"])
def test_shares(share, capsys):
    with pytest.raises(SystemExit):
        main(["check-data", "--split", share])
    assert "between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "one", "1.5"])
def test_seeds(seed, capsys):
    with pytest.raises(SystemExit):
        main(["check-data", "--split", "0.5", f"--seed={seed}"])
    assert "a whole number from 0 on" in capsys.readouterr().err

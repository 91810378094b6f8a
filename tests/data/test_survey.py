"""``ppreplk check-data``: everything that is wrong with the data of a training is found at once, and shown."""

import csv
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import colour_config, refused, run_python, run_tool, write_config
from image_helpers import picture
from PIL import Image

from ppreplk.cli import main
from ppreplk.config import load_config
from ppreplk.data import build_dataset
from ppreplk.data.survey import survey
from ppreplk.data.survey_findings import DISTORTS, NOTE, STOPS, Findings
from ppreplk.data.survey_page import html_report, write_report
from ppreplk.data.survey_start import first_look
from ppreplk.data.survey_text import text_report, verdict


@pytest.fixture
def project(colour_project, monkeypatch):
    """The colour project with images that all differ."""
    monkeypatch.chdir(colour_project)
    return colour_project


def check(workers=1):
    return survey(load_config("config.yaml"), workers)


def add_to(name: str, *lines: str) -> None:
    with open(f"data/{name}.txt", "a") as file:
        file.writelines(f"{line}\n" for line in lines)


def found(workers=1) -> dict[str, list[str]]:
    """{code: texts} of all findings."""
    kept = check(workers).findings.kept
    return {code: [finding.text for finding in findings] for code, findings in kept.items()}


def test_clean_data_has_no_findings(project):
    result = check()
    assert not result.findings.counts
    text = text_report(result)
    assert "| images | 18 | 6 |" in text and "| sizes | 24x20 | 24x20 |" in text and "6 to 6, median 6" in text
    assert text.endswith("nothing found that stops or distorts a training")


@pytest.mark.parametrize("workers", [1, 3])
def test_every_mistake_is_found_at_once(project, workers):
    Path("data/images/3.png").write_bytes(b"not an image")
    Path("data/images/5.png").write_bytes(Path("data/images/5.png").read_bytes()[:300])
    Path("data/images/20.png").write_bytes(b"")
    add_to("train", "images/none.png 1", "images/0.png 9", "no label", "images/1.png x")
    add_to("val", "images/gone.png 0")
    codes = found(workers)
    assert [text.split(": ")[0] for text in codes["data.unreadable-image"]] == [
        "data/train.txt, line 4",
        "data/train.txt, line 6",
        "data/val.txt, line 3",
    ]
    assert [text.split(": ")[0] for text in codes["data.bad-line"]] == [
        "data/train.txt, line 21",
        "data/train.txt, line 22",
    ]
    assert codes["data.missing-image"] == [
        "data/train.txt, line 19: there is no image data/images/none.png",
        "data/val.txt, line 7: there is no image data/images/gone.png",
    ]
    assert codes["data.label-out-of-range"] == [
        "data/train.txt, line 20: label 9 is outside 0 to 2; Arch.class_num is 3"
    ]
    assert set(codes) == {*("data.unreadable-image", "data.bad-line", "data.missing-image", "data.label-out-of-range")}


def test_what_is_unreadable_here_is_what_ends_a_training(project):
    for number, size in enumerate(range(0, 1200, 150)):
        path = Path(f"data/images/{number}.png")
        path.write_bytes(path.read_bytes()[:size])
    config = load_config("config.yaml")
    images, expected = build_dataset(config.DataLoader.Train.dataset, 3, 0), []
    for number in range(len(images)):
        try:
            images[number]
        except ValueError as error:
            expected.append(str(error))
    assert len(expected) >= 7 and found()["data.unreadable-image"] == expected


def test_copies_are_those_of_comparing_all_pixels(project):
    rng = np.random.default_rng(0)
    lines = {"train": [], "val": []}
    for name in lines:
        for number in range(60):
            shade = int(rng.integers(0, 40))  # few, so that many are alike
            kind = ("png", "bmp", "tif")[number % 3]
            path = f"data/images/{name}{number}.{kind}"
            Image.fromarray(picture(seed=shade, height=6, width=7)).save(path)
            lines[name].append(f"images/{name}{number}.{kind} {shade % 3 if number % 7 else 0}")
        Path(f"data/{name}.txt").write_text("\n".join(lines[name]) + "\n")
    pixels: dict[bytes, list[tuple[str, int]]] = {}
    for name, content in lines.items():
        for line in content:
            path, label = line.split()
            pixels.setdefault(np.asarray(Image.open(f"data/{path}")).tobytes(), []).append((name, int(label)))
    groups = [group for group in pixels.values() if len(group) > 1]
    both = [group for group in groups if len({name for name, _ in group}) > 1]
    several = [group for group in groups if len({label for _, label in group}) > 1]
    neither = [group for group in groups if group not in both and group not in several]
    counts = check().findings.counts
    assert both and several and neither
    assert counts["data.in-both-sets"] == len(both)
    assert counts["data.contradiction"] == len(several)
    assert counts["data.copies"] == len(neither)


def test_copies_are_named_with_their_places(project):
    shutil.copy("data/images/4.png", "data/images/again.png")
    add_to("val", "images/again.png 1", "images/0.png 2")
    codes = found()
    assert codes["data.in-both-sets"][1] == (
        "2 images show the same: data/train.txt, line 5: data/images/4.png, class 1; "
        "data/val.txt, line 7: data/images/again.png, class 1"
    )
    [contradiction] = codes["data.contradiction"]
    assert "line 1: data/images/0.png, class 0; data/val.txt, line 8: data/images/0.png, class 2" in contradiction


def test_classes(project):
    lines = Path("data/train.txt").read_text().splitlines()
    Path("data/train.txt").write_text("\n".join(line for line in lines if not line.endswith(" 1")) + "\n")
    for number in range(60):
        Image.fromarray(picture(seed=number, height=20, width=24)).save(f"data/images/more{number}.png")
        add_to("train", f"images/more{number}.png 2")
    codes = found()
    assert codes["data.class-not-trained"] == ["Train: class 1 has no image, but 2 in Eval"]
    assert codes["data.imbalance"] == ["Train: class 2 has 66 images, class 0 6"]


def use_class_folders(train: str, held_out: str) -> None:
    """Sets with a class for each letter, and one image in each, all different."""
    config = colour_config()
    for part, names in (("Train", train), ("Eval", held_out)):
        dataset = config["DataLoader"][part]["dataset"]
        dataset.update(name="ImageFolderDataset", image_root=part)
        del dataset["cls_label_path"]
        for name in names:
            os.makedirs(f"{part}/{name}")
            Image.fromarray(picture(seed=2 * ord(name) + (part == "Eval"))).save(f"{part}/{name}/0.png")
    write_config(Path("config.yaml"), config)


def test_class_folders(project):
    use_class_folders("abc", "abd")
    os.remove("Train/b/0.png")
    os.makedirs("Eval/e")
    codes = found()
    assert len(codes["data.no-images"]) == 2 and "the folder of class 'b' holds no image" in codes["data.no-images"][0]
    assert "holds 4 class folders" in codes["data.class-count"][0]
    assert "with d, e" in codes["data.other-classes"][0].replace("'", "")
    assert codes["data.class-not-trained"] == ["Train: class 1 (b) has no image, but 1 in Eval"]


def test_one_set_has_more_class_folders_than_the_other(project):
    use_class_folders("abcde", "abc")
    os.remove("Train/d/0.png")
    shutil.copy("Train/a/0.png", "Eval/b/1.png")
    codes = found()
    assert "holds 5 class folders, but Arch.class_num is 3" in codes["data.class-count"][0]
    assert codes["data.class-not-trained"] == ["Train: class 3 (d) has no image"]
    assert "Train/a/0.png, class 0 (a); Eval/b: Eval/b/1.png, class 1 (b)" in codes["data.contradiction"][0]


def test_a_list_with_another_delimiter(project):
    lines = Path("data/val.txt").read_text().splitlines()
    Path("data/val.txt").write_text("".join(f"{line.replace(' ', ',')}\n" for line in lines))
    assert [text.split(":")[0] for text in found()["data.bad-line"]] == [
        f"data/val.txt, line {number}" for number in range(1, len(lines) + 1)
    ]


def test_odd_forms_are_remarked(project):
    images = {
        "huge.png": Image.fromarray(picture(200, 300)),
        "long.png": Image.fromarray(picture(5, 60)),
        "grey.png": Image.fromarray(picture()[:, :, 0]),
        "really.jpg": Image.fromarray(picture(20, 25)),
    }
    for number in range(20):
        Image.fromarray(picture(seed=number + 50, height=20, width=24)).save(f"data/images/more{number}.png")
        add_to("train", f"images/more{number}.png 0")
    for name, image in images.items():
        image.save(f"data/images/{name}", "PNG")
        add_to("train", f"images/{name} 0")
    result = check()
    codes = {code: " ".join(each.text for each in kept) for code, kept in result.findings.kept.items()}
    assert "huge.png, 300x200 RGB" in codes["data.odd-size"]
    assert "long.png, 60x5" in codes["data.odd-shape"]
    assert "grey.png, 53x37 L; most are RGB" in codes["data.odd-mode"]
    assert "really.jpg is a PNG file" in codes["data.odd-suffix"]
    assert not result.findings.total(STOPS) and not result.findings.total(DISTORTS) and result.findings.total(NOTE) == 4


def test_a_strip_that_cannot_be_resized_is_found_here(project):
    config = colour_config()
    ops = config["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    ops[1:2] = [{"ResizeImage": {"resize_short": 32, "backend": "pil"}}, {"CropImage": {"size": 32}}]
    write_config(Path("config.yaml"), config)
    Image.new("L", (40000, 1)).save("data/images/19.png")
    assert "data/images/19.png: a strip of 40000x1" in found()["data.thin-image"][0]


def test_the_page_shows_what_is_odd_in_one_file_and_names_are_text_in_it(project, tmp_path):
    name = "<script>alert(1)<&'\".png"
    shutil.copy("data/images/4.png", f"data/images/{name}")
    Path("data/images/7.png").write_bytes(b"broken")
    odd = os.fsdecode(b"data/images/caf\xe9.png")
    shutil.copy("data/images/2.png", odd)
    add_to("val", f"images/{name} 1")
    with open("data/val.txt", "ab") as file:
        file.write(b"images/caf\xe9.png 2\n")
    page, table = write_report(check(), tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;&amp;&#x27;&quot;.png" in text
    assert re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", text) == []
    assert text.count("<img ") == 4 and "no picture" in text and "caf\\udce9.png" in text
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["code"] for row in rows] == ["data.unreadable-image", "data.in-both-sets", "data.in-both-sets"]
    assert rows[0]["severity"] == "stops"


def test_a_page_stays_small_although_everything_is_wrong(project):
    lines = [f"images/none{number}.png 0" for number in range(12_000)]
    Path("data/train.txt").write_text("images/0.png 0\n" + "\n".join(lines) + "\n")
    result = check()
    assert result.findings.counts["data.missing-image"] == 12_000
    assert len(result.findings.kept["data.missing-image"]) == 10_000
    text = text_report(result)
    assert len(text.splitlines()) < 60 and "and 11980 more" in text
    assert len(html_report(result)) < 100_000 and "and 11800 more" in html_report(result)


def test_verdicts():
    findings = Findings()
    findings.add("data.copies", "a")
    assert verdict(findings) == "nothing found that stops or distorts a training"
    findings.add("data.contradiction", "b")
    assert verdict(findings) == "1 finding that distorts a training"
    findings.add("data.bad-line", "c")
    findings.add("data.missing-image", "d")
    assert verdict(findings) == "2 findings that stop a training and 1 finding that distorts a training"


def test_the_tool_and_its_exit_codes(project, capsys):
    process = run_tool("check-data", "-c", "config.yaml", "--workers", "2", "--report", "report", cwd=project)
    assert process.returncode == 0, process.stderr
    assert "wrote report/check-data.html" in process.stdout and Path("report/findings.csv").is_file()
    Path("data/images/7.png").write_bytes(b"broken")
    assert main(["check-data", "-c", "config.yaml", "--workers", "1"]) == 1
    printed = capsys.readouterr()
    assert "data/train.txt, line 8: data/images/7.png" in printed.out
    assert printed.err.splitlines()[-1] == "error: 1 finding that stops a training [data.findings]"
    os.remove("data/val.txt")
    assert main(["check-data", "-c", "config.yaml"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no list file data/val.txt" in last and last.endswith("[data.missing-dataset]")


def test_a_configuration_without_data(project):
    config = colour_config()
    config["DataLoader"] = {}
    write_config(Path("config.yaml"), config)
    with refused("config.missing-key", "DataLoader.Train"):
        check()
    config["DataLoader"] = {"Eval": colour_config()["DataLoader"]["Eval"]}
    write_config(Path("config.yaml"), config)
    assert [part.name for part in check().parts] == ["Eval"]


# --------------------------------------------------------------------------------------------------------
# The quick look at the start of a training


def looked(caplog, channels=3) -> list[tuple[str, str]]:
    caplog.set_level(logging.INFO)
    images = build_dataset(load_config("config.yaml").DataLoader.Train.dataset, 3, 0, channels)
    caplog.clear()
    first_look(images, 3, training=True)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_start_says_what_the_images_are(project, caplog):
    assert looked(caplog) == [
        ("INFO", "data/train.txt: 6 to 6 images per class; of 18 looked at: 24x20, RGB 18"),
    ]


def test_a_start_says_what_is_odd(project, caplog):
    Path("data/images/0.png").write_bytes(b"")
    Path("data/images/6.png").write_bytes(b"broken")
    lines = Path("data/train.txt").read_text().splitlines()
    kept = [line for line in lines if not line.endswith(" 1")]
    Path("data/train.txt").write_text("\n".join(kept + [line for line in kept if line.endswith(" 2")] * 9) + "\n")
    info, warning = looked(caplog)
    assert "0 to 60 images per class" in info[1]
    assert warning[0] == "WARNING" and "data/images/0.png is empty" in warning[1]
    assert "1 class of 3 without images: 1" in warning[1] and "10 times as many images" in warning[1]


def test_arrays_of_several_channels(project, caplog):
    config = colour_config()
    config["Arch"]["in_channels"] = config["Global"]["image_shape"][0] = 5
    for part in ("Train", "Eval"):
        ops = config["DataLoader"][part]["dataset"]["transform_ops"]
        ops[1:] = [{"NormalizeImage": {"mean": [0.5] * 5, "std": [0.5] * 5, "order": ""}}]
    write_config(Path("config.yaml"), config)
    rng = np.random.default_rng(0)
    for name, numbers in (("train", range(6)), ("val", range(6, 9))):
        for number in numbers:
            shape = (20, 24, 5 if number != 2 else 4)
            np.save(f"data/images/{number}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
        Path(f"data/{name}.txt").write_text("".join(f"images/{number}.npy {number % 3}\n" for number in numbers))
    shutil.copy("data/images/1.npy", "data/images/7.npy")
    codes = found()
    assert set(codes) == {"data.other-channels", "data.in-both-sets"}
    assert codes["data.other-channels"][0].startswith("data/train.txt, line 3: data/images/2.npy: has the shape")
    assert "of 6 looked at: 24x20, npy 6" in looked(caplog, channels=5)[0][1]


LISTING = """
import sys

from helpers import peak_memory
from ppreplk.data.listing import read_listing

before = peak_memory()
samples = read_listing(sys.argv[1], sys.argv[1] + "/list.txt", 1000).samples
print(len(samples), peak_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="its memory is read from /proc")
def test_a_list_of_a_million_images_takes_little_memory(tmp_path):
    """python -m pytest -m slow tests/data/test_survey.py"""
    for label in range(1000):
        (tmp_path / f"n{label:08d}").mkdir()
        (tmp_path / f"n{label:08d}" / "ILSVRC2012_val_00000000.JPEG").touch()
    line = "n{0:08d}/ILSVRC2012_val_00000000.JPEG {0}\n"
    (tmp_path / "list.txt").write_text("".join(line.format(label) * 1300 for label in range(1000)))
    number, taken = map(int, run_python(LISTING, str(tmp_path)).split())
    assert number == 1_300_000 and taken < 400e6

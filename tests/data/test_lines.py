"""Text files as people write them: lists of images, lists to predict, class names."""

import os
import unicodedata

import pytest
from helpers import refused

from ppreplk.config import PostProcessConfig
from ppreplk.data import find_images, read_list
from ppreplk.data.lines import read_lines
from ppreplk.deploy.class_names import read_class_names

NAMES = ["ant.png", "a big bee.png", "next\x85line.png", "separated\u2028here.png", "\u3000wide.png", "caf\xe9.png"]


@pytest.fixture
def images(tmp_path):
    for name in NAMES:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path


def plain(separator=" ") -> str:
    return "".join(f"images/{name}{separator}{label}\n" for label, name in enumerate(NAMES))


FORMS = {
    "as documented": plain().encode(),
    "byte order mark": plain().encode("utf-8-sig"),
    "UTF-16 of Windows": plain().encode("utf-16"),
    "Windows line ends": plain().replace("\n", "\r\n").encode(),
    "line ends of old Macs": plain().replace("\n", "\r").encode(),
    "blank lines": ("\n \n" + plain().replace("\n", "\n\n\t\n")).encode(),
    "no last line end": plain()[:-1].encode(),
    "two spaces": plain("  ").encode(),
    "tabs": plain("\t").encode(),
    "blanks around": plain().replace("\n", "  \n").replace("images", " images").encode(),
    "backslashes": plain().replace("/", "\\").encode(),
    "accents apart": unicodedata.normalize("NFD", plain()).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_to_train_on_and_to_predict(images, form):
    (images / "list.TXT").write_bytes(FORMS[form])
    expected = [str(images / "images" / name) for name in NAMES]
    samples = read_list(str(images), str(images / "list.TXT"), class_num=len(NAMES))
    assert [sample.path for sample in samples] == expected
    assert [sample.label for sample in samples] == list(range(len(NAMES)))
    assert find_images(str(images / "list.TXT")) == expected
    without_labels = [
        line.text[: -len(str(label))] for label, line in enumerate(read_lines(images / "list.TXT", "list"))
    ]
    (images / "list.txt").write_text("\n".join(without_labels), encoding="utf-8", newline="\n")
    assert find_images(str(images / "list.txt")) == expected


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " ", "|"])
def test_a_delimiter_that_trains_predicts_too(images, delimiter):
    (images / "list.txt").write_text(plain(delimiter), encoding="utf-8")
    samples = read_list(str(images), str(images / "list.txt"), len(NAMES), delimiter)
    assert [sample.path for sample in samples] == find_images(str(images / "list.txt"))


def test_what_stands_in_no_line_is_said_how_to_mend(images):
    path = images / "list.txt"
    path.write_text("images/ant.png,0\n")
    with refused("data.bad-line", "'path label'", "'images/ant.png,0'", "the key delimiter"):
        read_list(str(images), str(path), 1)
    path.write_text("C:\\images\\ant.png 0\n")
    with refused("data.missing-image", "'/' separates folders"):
        read_list(str(images), str(path), 1)
    with refused("data.missing-image", "'/' separates folders"):
        find_images(str(path))
    path.write_bytes("0 \u86c7\n".encode("gbk"))
    with refused("data.unreadable-text", "save it as UTF-8", str(path)):
        read_class_names(PostProcessConfig(class_id_map_file=str(path)))


def test_a_backslash_may_be_part_of_a_name(tmp_path):
    for name in ("a\\b.png", "a/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("a\\b.png 0\n")
    assert read_list(str(tmp_path), str(tmp_path / "list.txt"), 1)[0].path == str(tmp_path / "a\\b.png")


def test_names_in_undecodable_bytes_are_found(tmp_path):
    folder = os.fsencode(tmp_path)
    open(os.path.join(folder, b"caf\xe9.png"), "w").close()
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png 0\n")
    path = os.fsdecode(os.path.join(folder, b"caf\xe9.png"))
    assert find_images(str(tmp_path)) == [path]
    assert find_images(str(tmp_path / "list.txt")) == [path]
    assert read_list(str(tmp_path), str(tmp_path / "list.txt"), 1)[0].path == path


CLASSES = ["ant", "polar  bear", "next\x85line", "\u3000"]


@pytest.mark.parametrize(
    "start, separator, end, delimiter",
    [
        ("", " ", "\n", None),
        ("\ufeff", " ", "\r\n", None),
        ("\n", "\t", "\n\n", None),
        ("", "  ", " \r", " "),
        ("", ",", "\n", ","),
        ("", ": ", "\n", ":"),
    ],
)
def test_class_names(tmp_path, start, separator, end, delimiter):
    text = start + "".join(f"{index}{separator}{name}{end}" for index, name in enumerate(CLASSES))
    (tmp_path / "names.txt").write_bytes(text.encode())
    config = PostProcessConfig(class_id_map_file=str(tmp_path / "names.txt"), delimiter=delimiter)
    assert read_class_names(config) == CLASSES


@pytest.mark.parametrize(
    "text, part", [("0 a\n2 b\n", "line 2: expected '1 NAME'"), ("0 a\n1\n", "got '1'"), ("a\n", "got 'a'")]
)
def test_class_names_without_their_order(tmp_path, text, part):
    (tmp_path / "names.txt").write_text(text)
    with refused("deploy.bad-class-names", part):
        read_class_names(PostProcessConfig(class_id_map_file=str(tmp_path / "names.txt")))

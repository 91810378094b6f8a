"""The recipes that come with the package, as ``ppreplk configs`` lists and copies them."""

import os

import pytest
from helpers import ROOT, refused

from ppreplk.cli import main
from ppreplk.config import load_config, shipped

CONFIGS = ROOT / "configs"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_recipe_has_a_name_and_says_what_it_is():
    assert sorted(shipped.recipes().values()) == sorted(path for path in CONFIGS.rglob("*.y*ml"))
    rows = shipped.recipe_table().rows
    assert ["digits", "Handwritten digits, end to end, on two CPU cores in minutes; nothing is downloaded."] in rows
    assert {"study/table2_mbv2_3x3", "segmentation/digits_k3", "detection/digits_fcos"} <= {name for name, _ in rows}
    for name, text in rows:
        assert text.endswith(".") and len(text) > 20, name


def test_the_copy_is_the_recipe_and_its_schema(tmp_path):
    assert shipped.copy_recipe("digits", tmp_path) == [tmp_path / "digits.yaml", tmp_path / "schema.json"]
    for name in ("digits.yaml", "schema.json"):
        assert (tmp_path / name).read_bytes() == (CONFIGS / name).read_bytes()
    load_config(tmp_path / "digits.yaml")


def test_a_recipe_keeps_its_place_beside_the_schema(tmp_path):
    shipped.copy_recipe("study/table2_mbv2_3x3.yaml", tmp_path / "made" / "here")
    assert files_in(tmp_path) == ["made/here/schema.json", "made/here/study/table2_mbv2_3x3.yaml"]


def test_recipes_of_the_suites_need_no_schema(tmp_path):
    shipped.copy_recipe("segmentation/digits_k3", tmp_path)
    assert files_in(tmp_path) == ["segmentation/digits_k3.yml"]


def test_a_copy_under_another_name(tmp_path):
    assert shipped.copy_recipe("digits", tmp_path / "mine.yml") == [tmp_path / "mine.yml"]
    assert (tmp_path / "mine.yml").read_bytes() == (CONFIGS / "digits.yaml").read_bytes()


def test_all_of_them(tmp_path):
    assert len(shipped.copy_all_recipes(tmp_path)) == len(shipped.recipes()) + 1
    assert files_in(tmp_path) == files_in(CONFIGS)
    assert shipped.copy_all_recipes(tmp_path) == []  # there already


def test_nothing_is_overwritten_unless_forced(tmp_path):
    mine = tmp_path / "study" / "table2_mbv2_3x3.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    with refused("config.recipe-exists", str(mine), "--force"):
        shipped.copy_all_recipes(tmp_path)
    assert files_in(tmp_path) == ["study/table2_mbv2_3x3.yaml"] and mine.read_text() == "mine"
    assert shipped.copy_recipe("study/table2_mbv2_3x3", tmp_path, force=True)[0] == mine
    assert mine.read_bytes() == (CONFIGS / "study" / mine.name).read_bytes()


def test_a_schema_of_another_version_stays(tmp_path, caplog):
    (tmp_path / "schema.json").write_text("{}")
    assert shipped.copy_recipe("digits", tmp_path) == [tmp_path / "digits.yaml"]
    assert (tmp_path / "schema.json").read_text() == "{}" and "--force" in caplog.text
    assert shipped.copy_recipe("digits", tmp_path, force=True) == [tmp_path / "schema.json"]


def test_a_folder_in_the_place_of_a_recipe(tmp_path):
    (tmp_path / "digits.yaml").mkdir()
    with refused("config.recipe-exists", "digits.yaml is a folder"):
        shipped.copy_recipe("digits", tmp_path, force=True)
    assert files_in(tmp_path) == []


def test_a_folder_in_the_place_of_the_schema(tmp_path):
    (tmp_path / "schema.json").mkdir()
    with refused("config.recipe-exists", "schema.json is a folder"):
        shipped.copy_recipe("digits", tmp_path)
    assert files_in(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_place_that_cannot_be_read(tmp_path):
    (tmp_path / "digits.yaml").write_text("mine")
    (tmp_path / "digits.yaml").chmod(0)
    with refused("config.recipe-exists", "cannot read", "digits.yaml", "Permission denied"):
        shipped.copy_recipe("digits", tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("utils.cannot-write", str(tmp_path / "file")):
        shipped.copy_recipe("study/table2_mbv2_3x3", tmp_path / "file")
    assert files_in(tmp_path) == ["file"]


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    with refused("config.unknown-recipe", "'digit'", "did you mean digits"):
        shipped.copy_recipe("digit", tmp_path)
    with refused("config.unknown-recipe"):
        shipped.copy_recipe("../configs/digits", tmp_path)


def test_a_package_without_recipes_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "ppreplk")
    with refused("config.no-recipes", "install ppreplk again"):
        shipped.recipes()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs", "list", "--output", "recipes.csv"]) == 0
    assert "| finetune | Fine-tuning RepLKNet-31B" in capsys.readouterr().out and (tmp_path / "recipes.csv").is_file()
    assert main(["configs", "copy", "digits"]) == 0
    assert capsys.readouterr().out == "wrote configs/digits.yaml\nwrote configs/schema.json\n"
    assert main(["configs", "copy", "digits"]) == 0
    assert capsys.readouterr().out == "all of it is there already\n"
    assert main(["configs", "copy", "--all", "others"]) == 0
    assert files_in(tmp_path / "others") == files_in(CONFIGS)


@pytest.mark.parametrize("arguments", [["copy"], ["copy", "--all", "digits", "here"]])
def test_arguments_that_do_not_go_together(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs", *arguments]) == 2
    assert "[command.arguments]" in capsys.readouterr().err and files_in(tmp_path) == []

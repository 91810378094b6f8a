"""Files that appear whole or not at all: what is left when writing them fails."""

import os

import pytest
from helpers import refused

from ppreplk.utils import atomic
from ppreplk.utils.atomic import check_output, creating, make_folder, partial_path, replace_files, replacing


def contents(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_files_are_replaced_together(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_text("old")
    with replacing(*paths) as partials:
        assert partials == [partial_path(path) for path in paths]
        for partial in partials:
            partial.write_text("new")
        assert contents(tmp_path) == {"a": "old", "a.partial": "new", "b.partial": "new"}
    assert contents(tmp_path) == {"a": "new", "b": "new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_in_the_middle_leaves_the_old_files(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises(error):
        with replacing(tmp_path / "a", tmp_path / "b") as [partial, _]:
            partial.write_text("half of the ne")
            raise error
    assert contents(tmp_path) == {"a": "old"}


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "a").write_text("old")
    with refused("utils.cannot-write", "cannot write", str(tmp_path / "a"), "No space left on device"):
        with replacing(tmp_path / "a") as [partial]:
            partial.write_text("half of the ne")
            raise OSError(28, os.strerror(28))
    assert contents(tmp_path) == {"a": "old"}


def test_a_file_in_a_folder_that_is_not_there(tmp_path):
    with refused("utils.cannot-write", "No such file or directory"):
        with replacing(tmp_path / "missing" / "a") as [partial]:
            partial.write_text("new")


def test_a_place_where_nothing_can_be_removed_either(tmp_path):
    """As on a file system that is read-only."""
    (tmp_path / "file").write_text("")
    with refused("utils.cannot-write", "Not a directory"):
        with replacing(tmp_path / "file" / "a") as [partial]:
            partial.write_text("new")


def test_folders_are_created_with_their_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with refused("utils.cannot-write", "Global.output_dir: cannot create", str(tmp_path / "a" / "b")):
        make_folder(tmp_path / "a" / "b", "Global.output_dir")


def test_an_empty_folder_goes_again_when_its_work_fails(tmp_path):
    (tmp_path / "before").mkdir()
    with pytest.raises(KeyboardInterrupt):
        with creating(tmp_path / "before" / "new" / "newer"):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [tmp_path / "before"] and not any((tmp_path / "before").iterdir())
    with pytest.raises(KeyboardInterrupt):
        with creating(tmp_path / "before"):
            raise KeyboardInterrupt
    assert (tmp_path / "before").is_dir(), "it existed"


def test_a_folder_that_holds_something_stays_when_its_work_fails(tmp_path):
    with pytest.raises(ValueError):
        with creating(tmp_path / "new"):
            (tmp_path / "new" / "first").write_text("")
            raise ValueError
    assert contents(tmp_path / "new") == {"first": ""}


@pytest.fixture
def folders(tmp_path):
    """New files ``a`` and ``b`` to put beside a kept file, over an old ``b``, and instead of a stale ``c``."""
    staging, target = tmp_path / "staging", tmp_path / "target"
    for folder, texts in ((staging, {"a": "new", "b": "new"}), (target, {"b": "old", "c": "old", "kept": "old"})):
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
    return staging, target


def test_files_move_into_a_folder_and_stale_ones_go(folders):
    staging, target = folders
    replace_files(staging, target, ["c", "d"])
    assert contents(target) == {"a": "new", "b": "new", "kept": "old"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_move_that_fails_puts_everything_back(folders, monkeypatch, failing, links):
    staging, target = folders
    before, replace, moved = contents(target), os.replace, []

    def fail_once(source, path):
        moved.append(path)
        if len(moved) == failing + 1:
            raise OSError(28, os.strerror(28))
        replace(source, path)

    def refuse(source, path):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(atomic.os, "replace", fail_once)
    if not links:
        monkeypatch.setattr(atomic.os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        replace_files(staging, target, ["c"])
    assert contents(target) == before


def test_a_folder_in_the_place_of_a_file(folders):
    staging, target = folders
    (target / "a").mkdir()
    before = contents(target)
    with refused("utils.folder-in-place", str(target / "a"), "remove it"):
        replace_files(staging, target, ["c"])
    assert contents(target) == before


def test_output_paths_are_checked_before_the_work(tmp_path):
    assert check_output(str(tmp_path / "t.md"), "table", (".md", ".csv")) == tmp_path / "t.md"
    with refused("utils.output-path", "a table is written to a .md or .csv file, got t.txt"):
        check_output("t.txt", "table", (".md", ".csv"))
    with refused("utils.output-path", "the folder of", "does not exist"):
        check_output(tmp_path / "missing" / "t.md", "table", (".md", ".csv"))

"""Paths as people write them: behind ``-o`` and in files, see tests/config; in arguments, here."""

import pytest
from helpers import refused

from ppreplk.analysis.erf_comparison import read_subject
from ppreplk.cli import command_parser
from ppreplk.utils.paths import user_path


@pytest.mark.parametrize(
    "command, argument",
    [
        ("infer -c ~/a --output ~/a --model-dir ~/a", ("config", "output", "model_dir")),
        ("convert ~/a ~/a --check ~/a", ("source", "target", "check")),
        ("erf --model RepLKNet31B --images ~/a --output ~/a", ("images", "output")),
        ("study run -c ~/a --output ~/a", ("config", "output")),
        ("study recipes ~/a", ("folder",)),
        ("benchmark conv --figure ~/a", ("figure",)),
    ],
)
def test_arguments_begin_at_the_home_folder(monkeypatch, command, argument):
    monkeypatch.setenv("HOME", "/home/someone")
    arguments = vars(command_parser().parse_args(command.split()))
    assert {arguments[name] for name in argument} == {"/home/someone/a"}


def test_weights_behind_an_equals_sign_and_lists_of_files_do_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert read_subject("RepLKNet31B=~/w.pdparams").weights == "/home/someone/w.pdparams"
    parsed = command_parser().parse_args(["complexity", "variants", "--output=~/a.md", "--output=b.md"])
    assert parsed.output == ["/home/someone/a.md", "b.md"]


def test_an_unknown_home_folder_is_one_line(capsys):
    with pytest.raises(SystemExit):
        command_parser().parse_args(["infer", "-c", "c.yaml", "--output=~nobody-here/a.csv"])
    assert "--output: the home folder ~nobody-here in '~nobody-here/a.csv' is not known" in capsys.readouterr().err


@pytest.mark.parametrize("path", [".", "..", "/", "a b", "ü", "run #2", "./~x", "a/~", "x" * 255, "\udcff"])
def test_other_paths_stay(path):
    assert user_path(path) == path


@pytest.mark.parametrize("path", ["", " ", "a\0", "\ud800", "x" * 256, "a/" * 2100, "ü" * 128])
def test_paths_that_cannot_be_are_refused(path):
    with refused("input.bad-path"):
        user_path(path)

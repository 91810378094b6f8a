"""Log lines and the progress bar."""

import logging

from helpers import refused

from ppreplk.utils.log import PACKAGE_LOGGER, log_to_file, progress


def test_a_log_file_is_appended_to(tmp_path, caplog):
    caplog.set_level("INFO", PACKAGE_LOGGER.name)
    path = tmp_path / "train.log"
    for text in ("first", "second"):
        with log_to_file(path):
            logging.getLogger("ppreplk.training").info(text)
    logging.getLogger("ppreplk.training").info("third")
    assert [line.split("INFO: ")[1] for line in path.read_text().splitlines()] == ["first", "second"]


def test_a_log_file_that_cannot_be_written(tmp_path):
    with refused("utils.cannot-write", f"cannot write the log {tmp_path}"):
        with log_to_file(tmp_path):
            pass


def test_progress_without_a_terminal_shows_nothing(capsys):
    with progress([1, 2], 2, "images") as bar:
        assert list(bar) == [1, 2]
    assert capsys.readouterr() == ("", "")

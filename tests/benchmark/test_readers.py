"""Readers side by side: what is installed answers, the rest is named, and a reader that differs is told."""

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import assert_one_line_and_exit_2, randomise_batch_norms, refused, run_tool

from ppreplk.benchmark import reader_servers, readers
from ppreplk.benchmark.environments import Environment
from ppreplk.benchmark.reader_process import Answers, Job, ask_all, in_order, load_answers
from ppreplk.benchmark.readers import Pythons, compare_readers
from ppreplk.config import load_config
from ppreplk.models.arch import build_network

WEIGHTS = "Global.pretrained_model=weights"
SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = {"class_ids": [1, 0], "scores": [0.75, 0.25], "read": body.decode()}
        status = 200 if self.path == "/predict?topk=2" and body != b"bad" else 500
        answer = json.dumps({"predictions": [found]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def project(colour_project, monkeypatch):
    """The colour project with weights whose every BN statistic is random."""
    monkeypatch.chdir(colour_project)
    paddle.seed(0)
    model = build_network(load_config("config.yaml").Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "weights.pdparams")
    return colour_project


def chosen(monkeypatch, *names):
    """Leave only these readers; the network itself is always there."""
    every = readers.list_readers
    monkeypatch.setattr(readers, "list_readers", lambda shared: [row for row in every(shared) if row[0] in names])


def rows_of(table) -> dict:
    return {f"{row[0]}, {row[1]}": dict(zip(table.columns, row)) for row in table.rows}


def test_paddle_alone(project, monkeypatch):
    """The network and the programs that Paddle runs, one image at a time, from the configured evaluation images."""
    chosen(
        monkeypatch,
        *("this package, train form", "this package, folded", "Paddle Inference, no oneDNN", "ppreplk.Predictor"),
    )
    table, bad = compare_readers("config.yaml", [WEIGHTS], 4, Pythons())
    assert bad == [] and "RepLKNet13T, 4 images" in table.title
    rows = rows_of(table)
    assert len(rows) == 4
    for row in rows.values():
        assert row["same class"] == "4 of 4" and float(row["largest difference"]) < 1e-5
        assert 0 < float(row["least ms"]) <= float(row["median ms"])


def test_the_command_prints_and_writes_the_table(project):
    """Every reader, as a user has them: those that are not installed are skipped, and the skipped ones named."""
    arguments = ["-c", "config.yaml", "-o", WEIGHTS, "--images", "3", "--output", "readers.csv"]
    process = run_tool("benchmark", "readers", *arguments, cwd=project)
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == 16 == len(Path("readers.csv").read_text().splitlines()) - 1
    for line in lines:
        assert "3 of 3" in line or "skipped: " in line, line
    assert sum("3 of 3" in line for line in lines) >= 6


def test_a_reader_that_gives_other_classes_or_fails_is_named(project, monkeypatch):
    chosen(monkeypatch, "this package, train form", "ppreplk.Predictor", "Paddle Inference, oneDNN")
    wrong = Answers(np.eye(3)[[0, 1, 2]], np.zeros(0))
    monkeypatch.setattr(readers, "_network", lambda shared, folded: Answers(np.eye(3)[[0, 1, 1]], np.ones(3)))
    monkeypatch.setattr(readers, "_predictor", lambda shared: wrong)
    monkeypatch.setattr(readers, "_program", lambda shared, name, onednn=True: shared.environment("nothing"))
    monkeypatch.setattr(readers.Comparison, "environment", fail)
    table, bad = compare_readers("config.yaml", [WEIGHTS], 3, Pythons())
    rows = rows_of(table)
    assert rows["ppreplk.Predictor, inference.json"]["same class"] == "2 of 3"
    assert rows["ppreplk.Predictor, inference.json"]["median ms"] == "-"
    assert rows["Paddle Inference, oneDNN, inference.json"]["same class"] == "failed: it is / broken"
    assert bad == ["Paddle Inference, oneDNN", "ppreplk.Predictor"]


def fail(*arguments):
    raise readers.UserError("it is | broken", code="benchmark.reader-failed")


def test_bad_input_is_refused(project):
    with refused("benchmark.bad-python", "--paddlex-python", "no/python"):
        compare_readers("config.yaml", [WEIGHTS], 3, Pythons(paddlex="no/python"))
    with refused("benchmark.device", "Global.device"):
        compare_readers("config.yaml", [WEIGHTS, "Global.device=gpu"], 3, Pythons())
    with refused("benchmark.no-input", "DataLoader.Eval"):
        compare_readers("config.yaml", [WEIGHTS, "DataLoader.Eval=null"], 3, Pythons())
    process = run_tool("benchmark", "readers", "-c", "config.yaml", cwd=project)
    assert_one_line_and_exit_2(process, "Global.pretrained_model is not set")


# ----------------------------------------------------------------------------------------------------------------------
# Other environments


def test_an_environment_says_what_it_lacks(tmp_path):
    environment = Environment(sys.executable, tmp_path)
    assert environment.missing(["json", "no_such_package", "numpy"]) == ["no_such_package"]
    assert environment.run("-c", "import ppreplk; print(ppreplk.__version__)").strip()
    with refused("benchmark.reader-failed", "ZeroDivisionError"):
        environment.run("-c", "0 / 0")


def test_another_environment_does_not_see_what_is_installed_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/this/environment")
    assert Environment("other/python", tmp_path).variables()["PYTHONPATH"] == str(tmp_path)
    assert (tmp_path / "ppreplk" / "benchmark").is_dir()


def test_an_interpreter_may_be_named_from_here(project, monkeypatch):
    """Its processes run in another folder."""
    Path("environment").mkdir()
    Path("environment/python").write_text(f'#!/bin/sh\necho asked >> "{project}/log"\nexec {sys.executable} "$@"\n')
    Path("environment/python").chmod(0o755)
    chosen(monkeypatch, "this package, train form", "PaddleX, in Python")
    table, bad = compare_readers("config.yaml", [WEIGHTS], 1, Pythons(paddlex="environment/python"))
    assert Path("log").read_text().startswith("asked")
    assert "cannot be started" not in str(table.rows)


def test_what_no_python_is(tmp_path):
    (tmp_path / "python").write_text("no program")
    with refused("benchmark.bad-python", str(tmp_path / "python")):
        Environment(str(tmp_path / "python"), tmp_path).missing(["json"])


def test_a_server_is_asked_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_servers, "PPREPLK", SERVER)
    for name in ("good", "bad"):
        (tmp_path / name).write_text(name)
    images = [str(tmp_path / name) for name in ("good", "bad")]
    environment = Environment(sys.executable, tmp_path)
    with reader_servers.our_server(environment, tmp_path, images, 2, 1) as predict:
        assert list(predict(0)) == [0.25, 0.75]
        with refused("benchmark.reader-failed", "answered 500"):
            predict(1)
    monkeypatch.setattr(reader_servers, "PPREPLK", "raise SystemExit('nothing listens')")
    with refused("benchmark.reader-failed", "nothing listens"):
        with reader_servers.our_server(environment, tmp_path, images, 2, 1):
            pass


def test_answers_travel_in_a_file(tmp_path):
    asked = []
    answers = ask_all(lambda number: asked.append(number) or in_order([number], [1.0], 3), 3)
    assert asked == [0, 1, 2, 0, 1, 2] and np.array_equal(answers.probabilities, np.eye(3))
    answers.save(str(tmp_path / "answers.npz"))
    assert np.array_equal(load_answers(tmp_path / "answers.npz").seconds, answers.seconds)
    Job("paddlex", "folder", ["a.png"], "a.npy", 3, 1, "o.npz").save(tmp_path / "job.json")
    assert Job(**json.loads((tmp_path / "job.json").read_text())).images == ["a.png"]

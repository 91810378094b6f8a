"""Our programs in PaddleX: its API, its command and its server give the classes that we give.

What needs PaddleX is skipped where it is not installed. ``tests/plugins/paddlex.sh`` makes an environment that has it,
and runs these tests there.
"""

import base64
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import (
    COLOURS,
    ROOT,
    colour_config,
    randomise_batch_norms,
    refused,
    require_depthwise_operators,
    write_config,
)

import ppreplk
from ppreplk.config import load_config
from ppreplk.deploy.export import export
from ppreplk.models.arch import build_network
from ppreplk.plugins import paddlex as plugin

needs_paddlex = pytest.mark.skipif(importlib.util.find_spec("paddlex") is None, reason="paddlex is not installed")
SECONDS = 240  # for PaddleX to begin: it imports much


@pytest.fixture
def project(colour_project, monkeypatch):
    """The colour project with weights whose every BN statistic is random, and an exported program."""
    monkeypatch.chdir(colour_project)
    monkeypatch.setenv("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(colour_project / "cache"))
    export(config())
    return colour_project


def config(*overrides):
    """The colour configuration with those weights; all three classes are shown."""
    write_config(Path("config.yaml"), colour_config())
    if not Path("weights.pdparams").exists():
        paddle.seed(0)
        model = build_network(load_config("config.yaml").Arch)
        randomise_batch_norms(model)
        paddle.save(model.state_dict(), "weights.pdparams")
    return load_config(
        "config.yaml", ["Global.pretrained_model=weights", f"Infer.PostProcess.topk={len(COLOURS)}", *overrides]
    )


def images() -> list[str]:
    return sorted(str(path) for path in Path("data/images").iterdir())


def launch(*arguments: object) -> subprocess.CompletedProcess:
    """The plugin's command in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "ppreplk.plugins.paddlex", *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=2 * SECONDS)


def environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}


# ----------------------------------------------------------------------------------------------------------------------
# Without PaddleX


def test_a_pipeline_for_a_program(project):
    plugin.main(["pipeline", "inference", "colours.yaml", "--batch-size", "5"])
    content = yaml.safe_load(Path("colours.yaml").read_text())
    assert content["pipeline_name"] == "image_classification" and content["Serving"] == {"visualize": False}
    assert content["SubModules"]["ImageClassification"] == {
        "module_name": "image_classification",
        "model_name": "RepLKNet13T",
        "model_dir": str(project / "inference"),
        "batch_size": 5,
        "topk": 3,
    }


def test_a_pipeline_needs_a_program_that_names_its_network(project):
    with refused("deploy.no-program", "absent"):
        plugin.write_pipeline("absent", "colours.yaml")
    path = Path("inference/inference.yml")
    path.write_text(path.read_text().replace("  model_name: RepLKNet13T\n", ""))
    with refused("plugins.no-program", "inference: ", "Global.model_name"):
        plugin.write_pipeline("inference", "colours.yaml")
    assert not Path("colours.yaml").exists()
    with refused("utils.output-path", "colours"):  # PaddleX would look for a pipeline of its own with this name
        plugin.write_pipeline("inference", "colours")


def test_results_that_can_be_split():
    image = np.zeros((2, 2, 3), np.uint8)
    batch = {
        "input_path": ["a.png", "b.png"],
        "input_img": [image, image],
        "class_ids": np.array([[1, 0], [2, 1]], np.int32),
        "scores": [np.array([0.75, 0.25], np.float32), np.array([0.5, 0.25], np.float32)],
        "label_names": [["b", "a"], ["c", "b"]],
        "page_index": [None, None],
    }
    plain = plugin.as_lists(batch)
    assert plain["class_ids"] == [[1, 0], [2, 1]] and plain["scores"] == [[0.75, 0.25], [0.5, 0.25]]
    assert plain["input_img"][0] is image and plain["label_names"] == batch["label_names"]
    json.dumps({key: value for key, value in plain.items() if key != "input_img"})


def test_drawing_is_off_where_nobody_asks_for_it():
    for given, expected in (
        ({}, {"visualize": False}),
        ({"Serving": None}, {"visualize": False}),
        ({"Serving": {"extra": {}}}, {"visualize": False, "extra": {}}),
        ({"Serving": {"visualize": True}}, {"visualize": True}),
    ):
        assert plugin._without_drawing(lambda path, given=given: given)("file.yaml")["Serving"] == expected


def test_the_commands_own_help():
    process = launch("--help")
    assert process.returncode == 0 and "pipeline MODEL_DIR FILE.yaml" in process.stdout


@pytest.mark.skipif(importlib.util.find_spec("paddlex") is not None, reason="paddlex is installed")
def test_without_paddlex_one_line_says_what_to_do():
    with refused("plugins.no-paddlex", "paddlex[cv,serving]"):
        plugin.register()
    process = launch("--pipeline", "colours.yaml")
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].endswith("[plugins.no-paddlex]")


# ----------------------------------------------------------------------------------------------------------------------
# With PaddleX


@pytest.fixture
def expected(project) -> list:
    return ppreplk.Predictor("inference", threads=1)(images())


def assert_equal(received: list, expected: list) -> None:
    """The same classes in the same order, and probabilities but for rounding."""
    assert len(received) == len(expected) == 24
    for found, wanted in zip(received, expected):
        assert list(found["class_ids"]) == wanted.class_ids
        assert list(found["label_names"]) == wanted.label_names
        np.testing.assert_allclose(found["scores"], wanted.scores, atol=5e-5)


@needs_paddlex
def test_names(monkeypatch):
    new = plugin.register("OurOwnNetwork")
    assert plugin.register("OurOwnNetwork") == []
    from paddlex.inference.models.bindings import get_binding, get_supported_engines

    assert {"RepLKNet13T", "RepLKNet31B", "RepLKNet", "OurOwnNetwork"} <= {*new, *get_known()}
    assert get_supported_engines("RepLKNet31B") == ("paddle_static", "onnxruntime")
    assert get_supported_engines("ResNet50") != ("paddle_static", "onnxruntime")  # theirs are left alone
    assert get_binding("ResNet50", "paddle_static").predictor.__name__ != "Classifier"


def get_known() -> list[str]:
    from paddlex.inference.models.bindings.registry import default_registry

    return list(default_registry._registry)


def create_model(folder: str, batch_size: int, **further: object):
    import paddlex

    plugin.register()
    settings = {"model_dir": folder, "batch_size": batch_size, "device": "cpu", "engine_config": {"cpu_threads": 1}}
    return paddlex.create_model("RepLKNet13T", **{**settings, **further})


@needs_paddlex
@pytest.mark.parametrize("batch_size", [1, 7])
def test_its_api(expected, batch_size):
    assert_equal(list(create_model("inference", batch_size).predict(images())), expected)


@needs_paddlex
def test_a_legacy_program(expected):
    export(config("Global.export_format=pdmodel", "Global.save_inference_dir=legacy"))
    assert_equal(list(create_model("legacy", 8).predict(images())), expected)


@needs_paddlex
def test_its_engine_onnxruntime(expected):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    export(config("Global.export_format=onnx", "Global.save_inference_dir=onnx"))
    model = create_model("onnx", 8, engine="onnxruntime", engine_config=None)
    assert_equal(list(model.predict(images())), expected)


@needs_paddlex
def test_a_program_with_operators_of_ours(expected):
    require_depthwise_operators()
    export(config("Global.export_depthwise=cpu", "Global.save_inference_dir=compiled"))
    assert "ppreplk_depthwise_conv_packed" in Path("compiled/inference.json").read_text()
    assert_equal(list(create_model("compiled", 8).predict(images())), expected)


@needs_paddlex
def test_its_command(expected):
    plugin.write_pipeline("inference", "colours.yaml")
    process = launch("--pipeline", "colours.yaml", "--input", "data/images", "--device", "cpu")
    assert process.returncode == 0, process.stderr
    text = process.stdout + process.stderr
    rows = re.findall(r"'input_path': '([^']+)'.*?'class_ids': (\[.*?\]).*?'label_names': (\[.*?\])", text, re.S)
    found = {path: (json.loads(ids), re.findall(r"'(\w+)'", names)) for path, ids, names in rows}
    assert found == {each.file_name: (each.class_ids, each.label_names) for each in expected}


@contextmanager
def server(*arguments: object):
    """PaddleX's server on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "ppreplk.plugins.paddlex", "--serve", "--port", str(port)]
    with open("server.log", "w") as log:
        process = subprocess.Popen([*command, *map(str, arguments)], env=environment(), stdout=log, stderr=log)
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            pytest.fail(Path("server.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def ask(address: str, path: str, **settings: object) -> dict:
    body = json.dumps({"image": base64.b64encode(Path(path).read_bytes()).decode(), **settings}).encode()
    request = urllib.request.Request(f"{address}/image-classification", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["result"]


@needs_paddlex
@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="paddlex[serving] is not installed")
def test_its_server(expected):
    plugin.write_pipeline("inference", "colours.yaml")
    content = yaml.safe_load(Path("colours.yaml").read_text())
    del content["Serving"]  # as a file that the user has written
    Path("colours.yaml").write_text(yaml.safe_dump(content))
    with server("--pipeline", "colours.yaml", "--device", "cpu") as address:
        answers = [ask(address, path) for path in images()]
    rows = [answer["categories"] for answer in answers]
    keys = {"class_ids": "id", "label_names": "name", "scores": "score"}
    assert_equal([{key: [each[name] for each in row] for key, name in keys.items()} for row in rows], expected)
    assert all(answer.get("image") is None for answer in answers)
    assert "Uvicorn running on http://127.0.0.1:" in Path("server.log").read_text()

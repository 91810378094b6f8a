"""Folders for the Hugging Face hub: what is in them, and that nothing is uploaded unless asked."""

import inspect
import json
import os
import re
import sys
import types

import numpy as np
import paddle
import pytest
import yaml
from helpers import GOLDEN, assert_one_line_and_exit_2, refused, run_tool, small_network

import ppreplk
from ppreplk.checkpoints.push import FILES, prepare_folder, upload
from ppreplk.utils.digests import blake2b_of
from ppreplk.weights import load_checkpoint, load_weights

PASSPORT = {
    "model": "RepLKNet",
    "classes": 5,
    "formats": {"paddle": ["inference.json", "inference.pdiparams"], "onnx": ["inference.onnx"]},
    "verification": [{"runtime": "Paddle Inference", "largest_difference": 1e-06, "largest_logit": 2.5}],
    "preprocessing": [{"ResizeImage": {"size": 32}}],
    "evaluation": {"metric": 0.91, "epoch": 3},
    "made": {"at": "2026-01-01", "python": "3.11.7", "numpy": "1.24.4"},
}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "best_model.pdparams"
    paddle.save(small_network().state_dict(), str(path))
    return path


@pytest.fixture
def export_dir(tmp_path):
    folder = tmp_path / "inference"
    folder.mkdir()
    (folder / "export.json").write_text(json.dumps(PASSPORT))
    return folder


def card_of(folder) -> tuple[dict, str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_folder(weights, export_dir, tmp_path):
    folder = prepare_folder(tmp_path / "new" / "digits", weights, export_dir, "mit")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    head, body = card_of(folder)
    assert head["license"] == "mit" and head["library_name"] == "ppreplk"
    assert head["pipeline_tag"] == "image-classification" and "replknet" in head["tags"]
    assert "# digits" in body and "5 classes" in body
    assert "after epoch 3: 0.91." in body and "| Paddle Inference | 1e-06 | 2.5 |" in body
    assert "| onnx | inference.onnx |" in body and "Made with python 3.11.7, numpy 1.24.4." in body
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "RepLKNet" and config["arguments"]["channels"] == [4, 6, 8]
    assert config["transforms"] == [{"ResizeImage": {"size": 32}}]
    assert config["form"] == "train" and "preprocessing" not in config and "id2label" not in config


def test_its_files_may_be_read_by_those_who_may_read_new_files(weights, tmp_path):
    before = os.umask(0o027)
    try:
        folder = prepare_folder(tmp_path / "digits", weights)
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == dict.fromkeys(FILES, "0o640")


def test_a_readme_of_something_else_is_not_lost(weights, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    with refused("checkpoints.not-a-card", str(tmp_path / "README.md"), "name another folder"):
        prepare_folder(tmp_path, weights)
    assert not (tmp_path / "model.safetensors").exists()
    folder = prepare_folder(tmp_path / "digits", weights, licence="mit")
    assert card_of(folder)[0]["license"] == "mit"
    assert "license" not in card_of(prepare_folder(folder, weights))[0]


def test_what_nobody_said_is_not_on_the_card(weights, tmp_path):
    head, body = card_of(prepare_folder(tmp_path / "digits", weights))
    assert "license" not in head and "Exported" not in body and "accuracy" not in body and "Made" not in body


@pytest.mark.parametrize("name, changes", [("RepLKNet13T", {}), ("RepLKNet13T", {"merged": True}), ("", {})])
def test_the_code_on_the_card_loads_the_weights(tmp_path, monkeypatch, name, changes):
    network = ppreplk.build_model(name, class_num=3, **changes) if name else small_network()
    paddle.save(network.state_dict(), str(tmp_path / "w.pdparams"))
    folder = prepare_folder(tmp_path / "card", tmp_path / "w.pdparams")
    monkeypatch.chdir(folder)
    made: dict = {}
    exec(re.search(r"```python\n(.*?)```", card_of(folder)[1], flags=re.S)[1], made)
    for key, value in network.state_dict().items():
        assert np.array_equal(made["model"].state_dict()[key].numpy(), value.numpy())


def test_a_backbone(tmp_path):
    head, body = card_of(prepare_folder(tmp_path / "card", GOLDEN / "tiny_xl_backbone.pth"))
    assert "pipeline_tag" not in head and "a backbone without a head" in body


def test_preprocessing_is_said_of_published_files_alone(tmp_path):
    network = ppreplk.build_model("RepLKNet31B", layers=[1, 1, 1, 1], channels=[4, 4, 4, 4])
    for name, has in (("own.pdparams", False), ("RepLKNet-31B_ImageNet-1K_384.pth", True)):
        paddle.save(network.state_dict(), str(tmp_path / name))
        folder = prepare_folder(tmp_path / "card", tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        assert ("preprocessing" in config) == has and (not has or config["preprocessing"]["size"] == 384)


def test_the_arguments_of_an_upload_are_those_of_the_library(weights, tmp_path, monkeypatch):
    library = pytest.importorskip("huggingface_hub")
    folder = prepare_folder(tmp_path / "card", weights)
    assert library.metadata_load(folder / "README.md")["library_name"] == "ppreplk"
    create, send = inspect.signature(library.create_repo), inspect.signature(library.upload_folder)
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    upload(folder, "owner/name")
    create.bind("owner/name", **hub.calls[0][2])
    send.bind(**hub.calls[1][2])


def test_the_folder_is_read_as_any_checkpoint(weights, tmp_path):
    folder = prepare_folder(tmp_path / "card", weights)
    network = small_network()
    load_weights(network, load_checkpoint(folder / "model.safetensors"), "card")


def test_what_the_training_wrote_down(weights, tmp_path):
    states = {"classes": ["a", "b", "c", "d", "e"], "best_metric": 0.5, "epoch": 2, "best_epoch": 2}
    states["digests"] = {".pdparams": blake2b_of(weights)}
    (tmp_path / "best_model.pdstates").write_text(json.dumps(states))
    folder = prepare_folder(tmp_path / "card", weights.with_suffix(""))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}
    body = card_of(folder)[1]
    assert "5 classes: a, b, c, d, e." in body and "after epoch 2: 0.5." in body


def test_refused(weights, tmp_path):
    with refused("checkpoints.no-passport", "export.json"):
        prepare_folder(tmp_path / "card", weights, tmp_path)
    (tmp_path / "export.json").write_text("[]")
    with refused("checkpoints.no-passport", "export.json"):
        prepare_folder(tmp_path / "card", weights, tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({**PASSPORT, "classes": 7}))
    with refused("checkpoints.no-passport", "7 classes", "5 classes"):
        prepare_folder(tmp_path / "card", weights, tmp_path)
    paddle.save(small_network().state_dict(), str(tmp_path / "other.pdparams"))
    (tmp_path / "export.json").write_text(json.dumps({**PASSPORT, "weights": str(tmp_path / "other")}))
    with refused("checkpoints.no-passport", "made from", "other"):
        prepare_folder(tmp_path / "card", weights, tmp_path)
    with refused("checkpoints.no-file"):
        prepare_folder(tmp_path / "card", tmp_path / "none.pdparams")
    (tmp_path / "file").write_text("")
    with refused("utils.cannot-write"):
        prepare_folder(tmp_path / "file" / "card", weights)
    assert not (tmp_path / "card").exists()


class Hub(types.ModuleType):
    """Stands in for huggingface_hub."""

    def __init__(self, error: Exception | None = None):
        super().__init__("huggingface_hub")
        self.calls: list = []
        self.error = error

    def create_repo(self, repository, **options):
        if self.error:
            raise self.error
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], options))
        return types.SimpleNamespace(commit_url="https://hub.example.org/commit/1")


def test_upload(weights, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    folder = prepare_folder(tmp_path / "card", weights)
    assert hub.calls == []
    (folder / "secret.txt").write_text("not to be uploaded")
    assert upload(folder, "owner/name") == "https://hub.example.org/commit/1"
    assert [call[:2] for call in hub.calls] == [("create", "owner/name"), ("upload", "owner/name")]
    assert hub.calls[1][2]["allow_patterns"] == ["model.safetensors", "config.json", "README.md"]


def test_uploads_that_fail(weights, tmp_path, monkeypatch):
    with refused("checkpoints.not-prepared", "model.safetensors", "--weights"):
        upload(tmp_path, "owner/name")
    folder = prepare_folder(tmp_path / "card", weights)
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(RuntimeError("401\nlog in first")))
    with refused("checkpoints.not-uploaded", "owner/name", "401 log in first"):
        upload(folder, "owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused("checkpoints.no-hub", "huggingface_hub", "ppreplk[hub]"):
        upload(folder, "owner/name")


def test_the_command(weights, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = run_tool("weights", "push", "card", "--weights", "best_model", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, "wrote card\n"), done.stderr
    nothing = run_tool("weights", "push", "card", cwd=tmp_path, env=environment)
    assert_one_line_and_exit_2(nothing, "--weights", code="command.arguments")

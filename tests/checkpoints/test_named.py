"""Published weights by name: the manifest, the folder, networks with weights, configurations, the commands."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import GOLDEN, ROOT, assert_one_line_and_exit_2, colour_config, refused, run_tool, write_config
from servers import entry, serving, write_manifest

import ppreplk
from ppreplk.checkpoints import download as download_module
from ppreplk.checkpoints import manifest, weights_folder
from ppreplk.checkpoints.manifest import default_weights, find_published, published_files
from ppreplk.checkpoints.pretrained import build_trained_network, use_named_weights
from ppreplk.checkpoints.verification import verify
from ppreplk.checkpoints.weights_folder import get, published_table
from ppreplk.config import load_config
from ppreplk.models import find_model
from ppreplk.training import Trainer
from ppreplk.utils.errors import Incomplete

FILE = "tiny-224.pdparams"

# ----------------------------------------------------------------------------------------------------------------------
# The manifest


def test_entries_are_whole_and_their_names_say_what_they_are():
    entries = published_files()
    assert len(entries) == 36 and {each.source for each in entries} == {
        "mmpretrain",
        "official",
        "megengine",
        "paddlevit",
    }
    for each in entries:
        assert each.name == f"{each.variant.lower()}-{each.weights}-{each.source}"
        assert each.task in manifest.TASKS and each.licence and each.page.startswith("https://github.com/")
        assert (each.address is None) != (not each.net_disks)
        for address in [*([each.address] if each.address else []), *each.net_disks.values()]:
            assert address.startswith("https://")
        assert each.address is None or each.address.endswith(f"/{each.file}")
        assert each.sha256 is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", each.sha256)
        find_model(each.variant)
    files = [each.file for each in entries if each.file]
    assert len(set(files)) == len(files) and all(Path(file).name == file for file in files)


def test_hashes_are_those_in_the_names_of_files():
    for each in published_files():
        if each.source == "mmpretrain":
            assert each.file.endswith(f"-{each.sha256}.pth")


def test_preprocessing_is_what_the_program_expects_of_the_file():
    for each in published_files():
        if each.file and each.task == "classification" and "size" in each.preprocessing:
            architecture = find_model(each.variant).architecture
            found = architecture.preprocessing(each.variant, Path(each.file))
            assert each.preprocessing == {"mean": list(found.mean), "std": list(found.std), "size": found.size}, each


def test_the_page_has_the_files_with_their_accuracies():
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for each in published_files():
        rows = [line for line in page.splitlines() if each.file and f"| `{each.file}` |" in line]
        assert len(rows) == (1 if each.file else 0), each.file
        for row in rows:
            for value in each.published.values():
                if each.published.get("top-5") != value:
                    assert re.search(rf"\b{value}", row), row
    named = set(re.findall(r"^\| `([\w.-]+\.(?:pth|pkl))` \|", page, flags=re.M))
    assert named == {each.file for each in published_files() if each.file}


@pytest.mark.parametrize(
    "name, variant, sources",
    [
        ("imagenet1k-224", "RepLKNet31B", ["mmpretrain", "official", "megengine", "paddlevit"]),
        ("ImageNet1K-224", "RepLKNet31B", ["mmpretrain", "official", "megengine", "paddlevit"]),
        ("imagenet1k-224-official", "RepLKNet31B", ["official"]),
        ("replknet31b-imagenet1k-224", None, ["mmpretrain", "official", "megengine", "paddlevit"]),
        ("replknet31b-imagenet1k-224-megengine", None, ["megengine"]),
        ("RepLKNet-31B_ImageNet-22K.pth", None, ["official"]),
    ],
)
def test_names(name, variant, sources):
    assert [each.source for each in find_published(name, variant)] == sources


def test_unknown_names_and_networks():
    with refused("checkpoints.unknown-weights", "'imagenet1k-225'", "did you mean imagenet1k-224"):
        find_published("imagenet1k-225", "RepLKNet31B")
    with refused("checkpoints.unknown-weights", "'imagenet1k-224'", "replknet31b-imagenet1k-224"):
        find_published("imagenet1k-224")
    with refused("checkpoints.none-published", "RepLKNet13T"):
        find_published("imagenet1k-224", "RepLKNet13T")
    with refused("checkpoints.none-published", "ResNet50", "RepLKNet31B"):
        default_weights("ResNet50")


def test_usual_weights():
    usual = {name: default_weights(name) for name in ("RepLKNet31B", "RepLKNet31L", "RepLKNetXL")}
    assert usual == {
        "RepLKNet31B": "imagenet1k-224",
        "RepLKNet31L": "imagenet22k-1k-384",
        "RepLKNetXL": "megdata73m-1k-320",
    }


# ----------------------------------------------------------------------------------------------------------------------
# The folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a RepLKNet13T with the classes of ImageNet."""
    paddle.seed(1)
    path = tmp_path_factory.mktemp("tiny") / FILE
    paddle.save(ppreplk.build_model("RepLKNet13T").state_dict(), str(path))
    return path


@pytest.fixture
def published(weights, tmp_path, monkeypatch):
    """These weights, published on a server on loopback, and on a net disk under another name."""
    content = weights.read_bytes()
    with serving({FILE: content}) as server:
        entries = [
            entry(FILE, content, f"{server.address}/{FILE}"),
            entry("disk.pth", content, None, name="replknet13t-tiny-2-disk", weights="tiny-2", source="disk", classes=5)
            | {"net_disks": {"Google Drive": "https://drive.example.org/1"}, "sha256": None},
        ]
        monkeypatch.setattr(manifest, "MANIFEST", str(write_manifest(tmp_path / "manifest.json", *entries)))
        monkeypatch.setattr(download_module, "PAUSE", 0.0)
        monkeypatch.setenv("PPREPLK_WEIGHTS", str(tmp_path / "kept"))
        for name in ("PPREPLK_MIRROR", "PPREPLK_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        published_files.cache_clear()
        yield server
    published_files.cache_clear()


def test_downloaded_once(published, tmp_path, weights):
    path = get("replknet13t-tiny-1")
    assert path == tmp_path / "kept" / FILE and path.read_bytes() == weights.read_bytes()
    receipt = json.loads((tmp_path / "kept" / f"{FILE}.json").read_text())
    assert receipt["name"] == "replknet13t-tiny-1-here" and receipt["from"] == f"{published.address}/{FILE}"
    assert get("tiny-1", "RepLKNet13T") == path == get(FILE)
    assert len(published.asked) == 1
    table = published_table().markdown()
    assert table.count(" here |") == 1 and table.count("Google Drive") == 1


def test_offline(published, monkeypatch):
    monkeypatch.setenv("PPREPLK_OFFLINE", "1")
    with refused("checkpoints.offline", FILE, "PPREPLK_OFFLINE"):
        get("replknet13t-tiny-1")
    assert not published.asked
    monkeypatch.setenv("PPREPLK_OFFLINE", "0")
    path = get("replknet13t-tiny-1")
    monkeypatch.setenv("PPREPLK_OFFLINE", "true")
    assert get("replknet13t-tiny-1") == path


def test_mirror(published, monkeypatch, weights):
    with serving({f"models/{FILE}": weights.read_bytes()}) as mirror:
        monkeypatch.setenv("PPREPLK_MIRROR", f"{mirror.address}/x/")
        mirror.files[FILE] = mirror.files.pop(f"models/{FILE}")
        get("replknet13t-tiny-1")
        assert mirror.asked == [(f"/x/{FILE}", "")] and not published.asked


def test_a_mirror_that_is_no_address(published, monkeypatch):
    monkeypatch.setenv("PPREPLK_MIRROR", "mirror.example.org")
    with refused("checkpoints.bad-address", "PPREPLK_MIRROR", "mirror.example.org"):
        get("replknet13t-tiny-1")


def test_only_on_a_net_disk(published, tmp_path, weights):
    with refused("checkpoints.net-disk", "Google Drive https://drive.example.org/1", "weights verify FILE", "disk.pth"):
        get("replknet13t-tiny-2")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "disk.pth").write_bytes(weights.read_bytes())
    assert get("replknet13t-tiny-2").name == "disk.pth" and not published.asked


def test_a_file_that_changed_is_read_again(published, tmp_path):
    path = get("replknet13t-tiny-1")
    path.write_bytes(b"something else")
    with refused("checkpoints.wrong-file", str(path), "remove it"):
        get("replknet13t-tiny-1")


def test_a_wrong_hash_leaves_nothing(published, tmp_path):
    published.files[FILE] = b"something else"
    with refused("checkpoints.wrong-download", "has the SHA-256"):
        get("replknet13t-tiny-1")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f".{FILE}.lock"]


def test_a_folder_that_cannot_be_made_or_written(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PPREPLK_WEIGHTS", str(tmp_path / "file" / "kept"))
    with refused("utils.cannot-write", "PPREPLK_WEIGHTS", "file/kept"):
        get("replknet13t-tiny-1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(published, tmp_path):
    (tmp_path / "kept").mkdir(mode=0o500)
    with refused("checkpoints.cannot-write", "PPREPLK_WEIGHTS"):
        get("replknet13t-tiny-1")


def test_a_read_only_folder_for_root(published, tmp_path, monkeypatch):
    """A folder in the place of the lock: it cannot be opened either."""
    (tmp_path / "kept" / f".{FILE}.lock").mkdir(parents=True)
    with refused("checkpoints.cannot-write", "PPREPLK_WEIGHTS"):
        get("replknet13t-tiny-1")


def test_the_command_downloads_without_paddle(published, weights):
    code = (
        "import sys\n"
        "sys.modules['paddle'] = None\n"
        "from ppreplk.checkpoints import manifest\n"
        "manifest.MANIFEST = sys.argv[1]\n"
        "from ppreplk.cli import main\n"
        "sys.exit(main(['weights', 'get', 'replknet13t-tiny-1']))\n"
    )
    command = [sys.executable, "-c", code, manifest.MANIFEST]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip()).read_bytes() == weights.read_bytes()
    assert f"INFO: downloading {published.address}" in process.stderr


def test_two_processes_download_once(published, tmp_path):
    published.delay = 1.0
    code = (
        "import sys, logging\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from ppreplk.checkpoints import manifest, weights_folder\n"
        "manifest.MANIFEST = sys.argv[1]\n"
        "weights_folder.get('replknet13t-tiny-1')\n"
    )
    command = [sys.executable, "-c", code, manifest.MANIFEST]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len(published.asked) == 1 and sum("downloading http" in text for text in outputs) == 1
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == sorted([FILE, f"{FILE}.json", f".{FILE}.lock"])


def test_the_folder_is_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("PPREPLK_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder.weights_folder() == tmp_path / "ppreplk" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder.weights_folder() == Path.home() / ".cache" / "ppreplk" / "weights"


def test_a_folder_that_nobody_can_have(monkeypatch):
    monkeypatch.setenv("PPREPLK_WEIGHTS", "~nobody-of-this-name/weights")
    with refused("input.bad-path", "PPREPLK_WEIGHTS", "~nobody-of-this-name"):
        published_table()


# ----------------------------------------------------------------------------------------------------------------------
# Networks


def same(network, weights: Path, *names: str) -> bool:
    state = paddle.load(str(weights))
    own = network.state_dict()
    return all(np.array_equal(own[name].numpy(), state[name].numpy()) for name in names or own)


@pytest.mark.parametrize("pretrained", ["tiny-1", "replknet13t-tiny-1-here", True])
def test_networks_by_name(published, weights, pretrained):
    assert same(ppreplk.build_model("RepLKNet13T", pretrained=pretrained), weights)


def test_networks_of_a_file(weights, monkeypatch):
    assert same(ppreplk.build_model("RepLKNet13T", pretrained=str(weights)), weights)
    assert same(ppreplk.build_model("RepLKNet13T", pretrained=str(weights.with_suffix(""))), weights)
    assert same(ppreplk.build_model("RepLKNet13T", pretrained=weights), weights)
    for no_file in ("~nobody-of-this-name/weights.pth", "x" * 300):
        with refused("checkpoints.none-published", no_file):
            ppreplk.build_model("RepLKNet13T", pretrained=no_file)
    with refused("checkpoints.bad-pretrained", "got 1"):
        ppreplk.build_model("RepLKNet13T", pretrained=1)
    with refused("checkpoints.none-published", "RepLKNet13T", "no file none.pth"):
        ppreplk.build_model("RepLKNet13T", pretrained="none.pth")
    with refused("checkpoints.unknown-weights", "no file none.pth"):
        ppreplk.build_model("RepLKNet31B", pretrained="none.pth", layers=[1, 1, 1, 1], channels=[8] * 4)


def test_a_network_without_weights_downloads_nothing(published):
    ppreplk.build_model("RepLKNet13T")
    ppreplk.build_model("RepLKNet13T", pretrained=False)
    assert not published.asked


def test_another_number_of_classes_and_a_backbone(published, weights, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    network = ppreplk.build_model("RepLKNet13T", pretrained=True, class_num=7)
    assert "head for 1000 classes; a new one for 7" in caplog.text
    assert network.head.weight.shape[1] == 7 and same(network, weights, "stem.0.conv.weight")
    backbone = ppreplk.build_model("RepLKNet13T", pretrained=True, out_indices=[0, 3])
    assert same(backbone, weights, "stem.0.conv.weight", "stages.3.blocks.1.pw2.conv.weight")
    merged = ppreplk.build_model("RepLKNet13T", pretrained=True, merged=True)
    assert "lkb_reparam" in " ".join(merged.state_dict())


def test_weights_of_another_network_do_not_fit(published):
    with refused("checkpoints.other-architecture"):
        ppreplk.build_model("RepLKNet13T", pretrained=True, channels=[8, 16, 24, 32])


def arch_config(folder: Path, **arch: object):
    content = colour_config()
    content["Arch"] = {"name": "RepLKNet13T", "class_num": 3, **arch}
    write_config(folder / "config.yaml", content)
    return folder / "config.yaml"


@pytest.mark.parametrize("text, value", [("True", True), ("False", False), ("tiny-1", "tiny-1"), ("a.pth", "a.pth")])
def test_pretrained_in_a_configuration(tmp_path, text, value):
    path = arch_config(tmp_path)
    assert load_config(path).Arch.pretrained is False
    assert load_config(path, [f"Arch.pretrained={text}"]).Arch.pretrained == value


def test_a_configuration_trains_from_named_weights(published, weights, colour_project, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    monkeypatch.chdir(colour_project)
    config = load_config(arch_config(colour_project, pretrained=True))
    trainer = Trainer(config)
    assert same(trainer.model, weights, "stem.0.conv.weight") and "a new one for 3" in caplog.text
    assert len(published.asked) == 1


def test_other_classes_are_refused_where_nothing_is_trained(published, tmp_path, weights):
    config = load_config(arch_config(tmp_path, pretrained="tiny-1"))
    with refused("checkpoints.other-classes", "1000 classes", "Arch.class_num is 3"):
        build_trained_network(config)
    config = load_config(arch_config(tmp_path, pretrained="tiny-1", class_num=1000))
    assert same(build_trained_network(config), weights)


def test_weights_of_global_come_first(published, tmp_path, weights, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    config = load_config(arch_config(tmp_path, pretrained=True), [f"Global.pretrained_model={weights}"])
    use_named_weights(config)
    assert config.Global.pretrained_model == str(weights) and "Arch.pretrained is not used" in caplog.text
    assert not published.asked


def test_a_configuration_with_unknown_weights(published, tmp_path):
    config = load_config(arch_config(tmp_path, pretrained="tiny-9"))
    with refused("checkpoints.unknown-weights", "Arch.pretrained", "tiny-1", "no file tiny-9"):
        use_named_weights(config)


# ----------------------------------------------------------------------------------------------------------------------
# Files that were downloaded by hand, and the commands


def test_verify(published, weights, tmp_path):
    text = str(verify(get("replknet13t-tiny-1")))
    assert "the same SHA-256 (its first 8 digits)" in text and "holds: RepLKNet13T, 1000 classes" in text
    copy = tmp_path / "renamed.pdparams"
    copy.write_bytes(weights.read_bytes())
    assert verify(copy).entry.name == "replknet13t-tiny-1-here"  # by its hash


def test_verify_of_a_renamed_file_whose_name_stands_for_several(weights, tmp_path, monkeypatch):
    """A name without its source: the first published file has another hash, the second none that is published."""
    entries = [
        entry(FILE, b"something else", "https://example.org/weights"),
        entry("disk.pth", b"", None, name="replknet13t-tiny-1-disk", source="disk", sha256=None),
    ]
    monkeypatch.setattr(manifest, "MANIFEST", str(write_manifest(tmp_path / "manifest.json", *entries)))
    (tmp_path / "mine.pdparams").write_bytes(weights.read_bytes())
    published_files.cache_clear()
    try:
        assert verify(tmp_path / "mine.pdparams", "replknet13t-tiny-1").entry.source == "disk"
    finally:
        published_files.cache_clear()


def test_verify_refuses_other_files(published, weights, tmp_path):
    wrong = tmp_path / FILE
    paddle.save(ppreplk.build_model("RepLKNet13T", class_num=5).state_dict(), str(wrong))
    with refused("checkpoints.wrong-file", "not the file that is published as replknet13t-tiny-1-here"):
        verify(wrong)
    other = tmp_path / "other.pdparams"
    wrong.rename(other)
    with refused("checkpoints.not-published", "RepLKNet13T, 5 classes", "--name"):
        verify(other)
    with pytest.raises(Incomplete):
        verify(other)
    assert verify(other, "replknet13t-tiny-2").compared == "neither size nor hash is published to compare with"
    with refused("checkpoints.wrong-file", "1000 classes", "where replknet13t-tiny-2-disk is RepLKNet13T, 5 classes"):
        verify(weights, "replknet13t-tiny-2")
    with refused("checkpoints.no-file"):
        verify(tmp_path / "none.pth")


def test_a_file_that_runs_code_is_refused(published, tmp_path):
    (tmp_path / "disk.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError) as caught:
        verify(tmp_path / "disk.pth", "replknet13t-tiny-2")
    assert caught.value.code.startswith("checkpoints.")


def test_the_commands(tmp_path):
    environment = {**os.environ, "PPREPLK_WEIGHTS": str(tmp_path / "kept"), "PPREPLK_OFFLINE": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess:
        return run_tool("weights", *map(str, arguments), cwd=tmp_path, env=environment)

    listed = run("list", "--output", "list.csv")
    assert listed.returncode == 0 and listed.stdout.count("| replknet") == 36
    assert len((tmp_path / "list.csv").read_text().splitlines()) == 37
    assert_one_line_and_exit_2(run("get", "replknet31b-imagenet22k"), "Baidu", code="checkpoints.net-disk")
    assert_one_line_and_exit_2(run("get", "RepLKNet31B-ImageNet1K-224"), "fd08e268", code="checkpoints.offline")
    assert_one_line_and_exit_2(run("convert", "x", "y.pth"), "y.pth", code="checkpoints.bad-target")
    assert not (tmp_path / "kept").exists()
    (entry,) = find_published("replknet31b-imagenet1k-224-mmpretrain")
    with serving({entry.address.split("/", 3)[3]: b"something else"}) as mirror:
        environment |= {"PPREPLK_OFFLINE": "", "PPREPLK_MIRROR": mirror.address}
        process = run("get", "replknet31b-imagenet1k-224")
    assert_one_line_and_exit_2(process, "expected fd08e268", mirror.address, code="checkpoints.wrong-download")
    converted = run("convert", GOLDEN / "tiny_reparam5.pth", "tiny.safetensors")
    assert converted.returncode == 0 and "wrote tiny.safetensors" in converted.stdout
    shutil.copy(GOLDEN / "tiny_reparam5.pth", tmp_path / "tiny.pdparams")
    assert run("convert", "tiny", "again.safetensors").returncode == 0  # .pdparams is left off
    assert_one_line_and_exit_2(
        run("convert", "none", "x.safetensors"), "no file none", code="checkpoints.unknown-weights"
    )
    process = run("verify", "tiny.safetensors")
    assert process.returncode == 1 and "[checkpoints.not-published]" in process.stderr

"""Values of ``-o`` are read as the type of their key."""

import copy
from typing import Literal, Optional, Union

import paddle
import pytest
import yaml
from helpers import ROOT, colour_config, refused, write_config

from ppreplk.config import Config, construct, load_config, override, read_ops
from ppreplk.config.checking import check_arguments
from ppreplk.data import NORMALIZED, build_transforms
from ppreplk.data.datasets import ImageNetDataset
from ppreplk.training.optimizers import build_optimizer
from ppreplk.training.schedules import build_schedule

DIGITS = ROOT / "configs" / "digits.yaml"
DATASET = "DataLoader.Train.dataset"
TEXTS = (
    "run #2 | 20240101 | 2024-01-01 | 2024-13-45 | 1:30 | on | yes | No | true | False | 007 | 010 | 1e3 | 0x1F "
    "| 1_000 | 3.10 | .5 | .inf | null.png | Nonesuch | a: b | a:b | [x].png | [x] | {a}.png | {a} | *.png | &a | - a "
    "| @x | !x | !!int x | %d | ? | > | `x` | it's | 'a | a=b | # | ... | --- | <<"
).split(" | ")


@pytest.mark.parametrize("text", [*TEXTS, "|"])
def test_text_and_paths_are_what_was_written(text):
    config = load_config(
        DIGITS,
        [f"Global.output_dir={text}", f"Infer.infer_imgs= {text} ", f"{DATASET}.image_root={text}"]
        + [f"Infer.PostProcess.delimiter={text}", f"{DATASET}.delimiter={text}"],
    )
    assert config.Global.output_dir == config.Infer.infer_imgs == config.Infer.PostProcess.delimiter == text
    dataset = config.DataLoader.Train.dataset
    given = {"transforms": None, "class_num": 10}
    arguments = check_arguments(ImageNetDataset, dataset.arguments, dataset.where, given)
    assert arguments["image_root"] == arguments["delimiter"] == text


@pytest.mark.parametrize("text, value", [("'a b'", "a b"), ('"a\\tb"', "a\tb"), ("''", ""), ("\t", "\t"), (" ", " ")])
def test_quotes_are_those_of_yaml_and_a_blank_delimiter_stays(text, value):
    assert load_config(DIGITS, [f"Infer.PostProcess.delimiter={text}"]).Infer.PostProcess.delimiter == value


@pytest.mark.parametrize("nothing", ["None", "null", "NULL", "~", ""])
def test_optional_keys_take_nothing(tmp_path, nothing):
    changed = colour_config()
    changed["Global"].update(pretrained_model="weights", checkpoints="latest")
    changed["EMA"] = {"decay": 0.9}
    write_config(tmp_path / "config.yaml", changed)
    keys = ("Global.pretrained_model", "Global.checkpoints", "Global.seed", "Global.builtin_dataset")
    config = load_config(tmp_path / "config.yaml", [f"{key}={nothing}" for key in keys])
    settings = config.Global
    assert (settings.pretrained_model, settings.checkpoints, settings.seed, settings.builtin_dataset) == (None,) * 4
    dataset = load_config(DIGITS, [f"{DATASET}.delimiter={nothing}"]).DataLoader.Train.dataset
    given = {"transforms": None, "class_num": 10}
    assert check_arguments(ImageNetDataset, dataset.arguments, dataset.where, given)["delimiter"] is None
    for key in ("Global.output_dir", "Global.epochs", "Arch.name", "Global.device"):
        with pytest.raises(ValueError, match=key):
            load_config(DIGITS, [f"{key}={nothing}"])


@pytest.mark.parametrize(
    "text, value", [("010", 10), ("007", 7), ("1_000", 1000), ("0x1F", 31), ("+3", 3), ("0o17", 15)]
)
def test_whole_numbers_are_decimal(text, value):
    assert load_config(DIGITS, [f"Global.epochs={text}"]).Global.epochs == value


@pytest.mark.parametrize("text", ["1:30", "1e3", "3.0", "on", "ten", "'3'", "2024-01-01", "9" * 5000, "٣", "[3]"])
def test_other_text_is_no_whole_number(text):
    with refused("config.wrong-type", "Global.epochs: expected a whole number, got ", text[:10]):
        load_config(DIGITS, [f"Global.epochs={text}"])


def test_arguments_of_operators_are_read_by_the_types_of_their_constructors(tmp_path):
    changed = colour_config()
    write_config(tmp_path / "config.yaml", changed)
    config = load_config(
        tmp_path / "config.yaml",
        [f"{DATASET}.transform_ops.1.ResizeImage.size=016", f"{DATASET}.transform_ops.2.NormalizeImage.order=''"]
        + ["Optimizer.lr.learning_rate=1/4", "Optimizer.lr.warmup_epoch=01", "Loss.Train.0.CELoss.epsilon=1e-1"],
    )
    ops = config.DataLoader.Train.dataset.transform_ops
    assert ops[1].arguments["size"] == 16
    build_transforms(ops, NORMALIZED)
    assert build_schedule(config.Optimizer, 3, 10).last_lr == 0.0

    def operator(
        text: str,
        choice: Literal["hwc", ""] = "hwc",
        number: Union[int, list[int], None] = 1,
        yes: Optional[bool] = None,
    ):
        return text, choice, number, yes

    raw = {"ops": [{"Op": {"text": "a"}}]}
    for change in ("text=010", "choice=", "number=010", "yes=off"):
        override(raw, f"ops.0.Op.{change}")
    op = read_ops(raw["ops"], "ops")[0]
    assert construct(operator, op.arguments, op.where) == ("010", "", 10, False)
    override(raw, "ops.0.Op.number=[010, 0x10]")
    op = read_ops(raw["ops"], "ops")[0]
    assert construct(operator, op.arguments, op.where)[2] == [10, 16]
    assert yaml.safe_load(yaml.safe_dump(dict(op.arguments))) == op.arguments
    whole = op.arguments | {"choice": "hwc"}
    assert construct(operator, whole, op.where) == ("010", "hwc", [10, 16], False)


def test_the_last_override_of_a_value_counts():
    overrides = ["Global.output_dir=007", "Global={epochs: 3}", "Global.output_dir=a", "Global.output_dir=010"]
    config = load_config(DIGITS, overrides)
    assert (config.Global.output_dir, config.Global.epochs) == ("010", 3)
    raw = {"Global": {}}
    override(raw, "Global.output_dir=007")
    raw["Global"]["output_dir"] = "b"
    raw["Arch"] = {"name": "RepLKNet13T"}
    assert construct(Config, raw, "").Global.output_dir == "b"


def test_ema_and_amp_are_switched_by_presence(tmp_path):
    text = yaml.safe_dump(colour_config())
    path = tmp_path / "config.yaml"
    for section, on in [
        ("EMA:\nAMP:", True),
        ("EMA: # none\nAMP:\n#  level: O2", True),
        ("EMA: {}\nAMP: {}", True),
        ("EMA: null\nAMP: ~", False),
        ("EMA: None\nAMP: null", False),
    ]:
        path.write_text(f"{section}\n{text}")
        config = load_config(path)
        assert (config.EMA is not None, config.AMP is not None) == (on, on), section
    assert load_config(path, ["EMA={}", "AMP.level=O2"]).EMA is not None
    path.write_text(f"EMA:\n{text}")
    assert load_config(path, ["EMA=None"]).EMA is None
    with refused("config.bad-override", "-o 'EMA='", "write {} to switch it on, null to switch it off"):
        load_config(path, ["EMA="])


@pytest.mark.parametrize(
    "key",
    ["Global.output_dir", "Global.checkpoints", "Global.pretrained_model", "Global.save_inference_dir"]
    + ["Infer.infer_imgs", "Infer.infer_list", "Infer.PostProcess.class_id_map_file"],
)
def test_paths_begin_at_the_home_folder(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)

    def value(config):
        for name in key.split("."):
            config = getattr(config, name)
        return config

    assert value(load_config(DIGITS, [f"{key}=~/a b"])) == "/home/someone/a b"
    changed = copy.deepcopy(colour_config())
    *sections, name = key.split(".")
    section = changed
    for each in sections:
        section = section[each]
    section[name] = "~/x"
    write_config(tmp_path / "config.yaml", changed)
    assert value(load_config(tmp_path / "config.yaml")) == "/home/someone/x"
    with refused("input.bad-path", f"{key}: the home folder ~nobody-here in '~nobody-here/x' is not known"):
        load_config(DIGITS, [f"{key}=~nobody-here/x"])
    (tmp_path / "~backup").mkdir()
    assert value(load_config(DIGITS, [f"{key}=~backup"])) == "~backup"
    for impossible in ('"a\\0b"', '"\\ud800"', "''", "' '", "x" * 300):
        with refused("input.bad-path", key):
            load_config(DIGITS, [f"{key}={impossible}"])


def test_data_sets_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.txt").write_text("missing.png 0\n")
    config = load_config(DIGITS, [f"{DATASET}.image_root=~", f"{DATASET}.cls_label_path=~/list.txt"])
    assert config.DataLoader.Train.dataset.arguments["image_root"] is None  # ~ alone is YAML's null
    config = load_config(DIGITS, [f"{DATASET}.image_root=~/", f"{DATASET}.cls_label_path=~/list.txt"])
    dataset = config.DataLoader.Train.dataset
    with refused("data.missing-image", str(tmp_path / "missing.png")):
        construct(ImageNetDataset, dataset.arguments, dataset.where, transforms=None, class_num=1)


def test_an_optimizer_takes_text_for_text(tmp_path):
    write_config(tmp_path / "config.yaml", colour_config())
    config = load_config(tmp_path / "config.yaml", ["Optimizer.no_weight_decay_name=on 007"])
    build_optimizer(config.Optimizer, 0.1, paddle.nn.Linear(2, 2))


@pytest.mark.parametrize("override, message", [
    ("Loss.Train.²=1", "'²' is not one of them"),
    ("Loss.Train.-1=1", "'-1' is not one of them"),
    ("Loss.Train.99999999999999999999=1", "is a list of 1 entries"),
    ("Global..epochs=1", "expected Key.sub=value"),
    ("=1", "expected Key.sub=value"),
])  # fmt: skip
def test_places_that_do_not_exist(override, message):
    with refused("config.bad-override", message):
        load_config(DIGITS, [override])


def test_an_override_with_a_key_twice_is_refused():
    with refused("config.duplicate-key", "-o 'Arch={name: a, name: b}'", "name is there twice"):
        load_config(DIGITS, ["Arch={name: a, name: b}"])

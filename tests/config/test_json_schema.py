"""configs/schema.json: it accepts what is accepted, refuses what is refused, and is up to date."""

import copy
import json

import pytest
import yaml
from helpers import ROOT, colour_config

from ppreplk.analysis.schema import configuration_schema, write_schema
from ppreplk.config import override
from ppreplk.config.json_schema import json_text, read_descriptions

SCHEMA = ROOT / "configs" / "schema.json"


def test_the_committed_file_is_up_to_date(tmp_path):
    assert write_schema(tmp_path).read_text() == SCHEMA.read_text(), "python tools/study.py recipes configs"
    assert json.loads(json_text(configuration_schema())) == configuration_schema()


def test_every_key_is_described_as_on_the_page():
    described: dict[str, set[str]] = {}

    def collect(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(value)
        for key, value in node.get("properties", {}).items() if isinstance(node, dict) else ():
            described.setdefault(key, set()).add(value.get("description") if isinstance(value, dict) else None)

    collect(configuration_schema())
    page = read_descriptions((ROOT / "docs" / "config.md").read_text(encoding="utf-8"))
    assert page["Global"]["pretrained_model"].endswith("any file of weights.md; `.pdparams` may be left off")
    for title, keys in page.items():
        for key, meaning in keys.items():
            assert meaning in described[key], (title, key)


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_valid(validator, path):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


VALID = [
    "Global.epochs=5",
    "Global.export_runtime=channels_last",
    "Global.use_dali=False",
    "Metric=null",
    "Arch={name: ResNet50, class_num: 3, lr_mult_list: [1.0]}",
    "Optimizer.lr={learning_rate: 4e-3}",
    "Optimizer={name: Momentum, momentum: 0.9, regularizer: {name: L2, coeff: 4e-5}, lr: {learning_rate: 1}}",
    "DataLoader.Train.dataset.batch_transform_ops=[{OpSampler: {MixupOperator: {alpha: 0.8, prob: 0.5}}}]",
    "DataLoader.Train.dataset.transform_ops.0=DecodeImage",
]
INVALID = [
    "Global.epoch=5",
    "Global.epochs=five",
    "Global.export_runtime=quick",
    "Global.use_dali=True",
    "Globl.epochs=5",
    "Arch={class_num: 3}",
    "Arch.drop_path=0.1",
    "Optimizer.name=AdamWW",
    "Optimizer.momentum=0.9",
    "Optimizer.beta1=fast",
    "Optimizer.beta1=1/2/3",
    "Optimizer.lr.end_lr=0.1",
    "Optimizer.lr={name: MultiStepDecay, learning_rate: 1}",
    "Loss.Train.0={CELos: {}}",
    "Loss.Train.0.CELoss.epsilom=0.1",
    "DataLoader.Train.sampler={shuffle: True}",
    "DataLoader.Train.dataset.transform_ops.0=CropImage",
    "DataLoader.Train.dataset.image_rot=x",
]


@pytest.mark.parametrize(("change", "valid"), [*((c, True) for c in VALID), *((c, False) for c in INVALID)])
def test_it_accepts_and_refuses_as_the_program_does(validator, change, valid):
    config = copy.deepcopy(colour_config())
    assert validator.is_valid(config)
    override(config, change)
    assert validator.is_valid(config) == valid

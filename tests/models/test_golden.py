"""Equality with the official implementation, from its own checkpoint files."""

import json

import numpy as np
import paddle
import paddle.nn.functional as F
from helpers import GOLDEN, GoldenCase, relative_difference

import ppreplk


def test_outputs_and_features(golden):
    model = golden.network()
    if model.out_indices is None:
        assert relative_difference(model(golden.input), golden.arrays["logits"]) < 1e-5
        assert relative_difference(model.forward_features(golden.input), golden.arrays["features"]) < 1e-5
    else:
        features = model(golden.input)
        assert [feature.shape[1] for feature in features] == model.feat_channels
        for index, feature in enumerate(features):
            assert relative_difference(feature, golden.arrays[f"feature_{index}"]) < 1e-5


def test_merged_kernels(golden):
    state = ppreplk.reparameterize(golden.network()).state_dict()
    expected = {name[len("merged/") :]: value for name, value in golden.arrays.items() if name.startswith("merged/")}
    assert expected and set(expected) == {name for name in state if "lkb_reparam" in name}
    for name, value in expected.items():
        assert relative_difference(state[name], value) < 1e-5, name


def test_merged_logits(golden_classifier):
    merged = ppreplk.reparameterize(golden_classifier.network())
    assert relative_difference(merged(golden_classifier.input), golden_classifier.arrays["logits_merged"]) < 1e-5


def test_training_loss_and_every_gradient(golden_classifier):
    arrays = golden_classifier.arrays
    model = golden_classifier.network()
    model.train()
    loss = F.cross_entropy(model(golden_classifier.input), paddle.to_tensor(arrays["label"]))
    loss.backward()
    assert abs(float(loss) - float(arrays["train_loss"])) < 1e-5 * abs(float(arrays["train_loss"]))
    expected = {name[len("grad/") :]: value for name, value in arrays.items() if name.startswith("grad/")}
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    assert set(parameters) == set(expected)
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        value = value.T if name == "head.weight" else value
        difference = np.abs(parameters[name].grad.numpy() - value).max()
        assert difference <= 5e-4 * np.abs(value).max() + 1e-6 * largest, name


def test_contribution_map(golden_classifier):
    received = ppreplk.erf.contribution_map(golden_classifier.network(), golden_classifier.input)
    assert relative_difference(received, golden_classifier.arrays["erf_contribution"]) < 1e-5


def test_layer_ids():
    expected = json.loads((GOLDEN / "replknet31b_layer_ids.json").read_text())
    with paddle.LazyGuard():  # names, no values
        assert ppreplk.optim.layer_ids(ppreplk.build_model("RepLKNet31B")) == expected


def test_state_dict_names_and_shapes_of_the_published_variants():
    for name, official in json.loads((GOLDEN / "official_state_dict_shapes.json").read_text()).items():
        expected = {}
        for key, shape in official.items():
            if key.endswith("num_batches_tracked"):
                continue
            ours = key.replace("running_mean", "_mean").replace("running_var", "_variance")
            expected[ours] = shape[::-1] if key == "head.weight" else shape
        with paddle.LazyGuard():  # names and shapes, no values
            received = {key: value.shape for key, value in ppreplk.build_model(name).state_dict().items()}
        assert received == expected, name


def test_golden_weights_reach_every_layer():
    case = GoldenCase("tiny_reparam5")
    state = case.network().state_dict()
    assert set(state) == set(case.state)
    assert all((state[name].numpy() == value).all() for name, value in case.state.items())

"""What training scripts put around weights: keys, averaged weights beside, prefixes."""

import logging
import pickle

import numpy as np
import pytest
from helpers import refused
from torch_files import tensors, write_zip

from ppreplk.checkpoints.files import read_weights
from ppreplk.checkpoints.wrappers import common_prefix

LAST = {"stem.0.conv.weight": np.zeros((2, 3), np.float32), "stem.0.bn._mean": np.full(2, 5, np.float32)}
AVERAGED = {"stem.0.conv.weight": np.ones((2, 3), np.float32), "stem.0.bn._mean": np.full(2, 6, np.float32)}
ARRAY = np.zeros(1, np.float32)


def prefixed(prefix: str, table: dict) -> dict:
    return {prefix + name: value for name, value in table.items()}


@pytest.fixture
def read(tmp_path):
    """Weights of a file with this content, as PyTorch or as Paddle writes it."""

    def read_back(content, ema=False, kind="paddle"):
        path = tmp_path / kind
        if kind == "torch":
            write_zip(path, {key: tensors(value) if key in TABLES else value for key, value in content.items()})
        else:
            path.write_bytes(pickle.dumps(content, protocol=4))
        return read_weights(path, ema)

    return read_back


TABLES = ("model", "state_dict", "model_state_dict", "params", "net", "module", "my_network")


def assert_same(received: dict, expected: dict) -> None:
    assert list(received) == list(expected)
    assert all((received[name] == array).all() for name, array in expected.items())


@pytest.mark.parametrize("kind", ["torch", "paddle"])
@pytest.mark.parametrize("key", TABLES)
def test_keys_around_the_weights(read, key, kind):
    state, has_averaged = read({"epoch": 3, "optimizer": {"lr": 0.1}, key: LAST, "best": 0.5}, kind=kind)
    assert_same(state, LAST)
    assert not has_averaged


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"state_dict": LAST}},
        {"state_dict": {"model": {"module": LAST}}},
        {"model": LAST, "optimizer": {"a_moment1_0": ARRAY}},
        {"my_network": LAST, "optim": {"a_moment1_0": ARRAY}, "scheduler": {"last_epoch": 3}},
        {"checkpoint": {"epoch": 1, "net": LAST}, "model": {}, "net": None, "state_dict": LAST},
        {"module": prefixed("", LAST), "ds_version": "0.1"},
    ],
)
def test_keys_in_keys_and_tables_beside(read, content):
    assert_same(read(content).state, LAST)


def test_two_tables_of_unknown_meaning_are_not_guessed(read):
    with refused("checkpoints.no-weights", "'generator', 'critic'"):
        read({"generator": LAST, "critic": AVERAGED})


@pytest.mark.parametrize(
    "content",
    [
        {"model": LAST, "model_ema": AVERAGED},
        {"state_dict": LAST, "state_dict_ema": AVERAGED},
        {"state_dict": LAST, "ema_state_dict": AVERAGED},
        {"model": LAST, "ema": AVERAGED},
        {"model": LAST, "ema": {"module": AVERAGED, "decay": 0.999, "updates": 3}},
        {"params": LAST, "params_ema": AVERAGED},
        {"checkpoint": {"model": LAST, "ema": AVERAGED}},
        {"model": LAST, "model_ema": {**AVERAGED, "n_averaged": np.array(3)}},
        {**LAST, **prefixed("ema_", AVERAGED)},
        {**LAST, **prefixed("ema.", AVERAGED)},
        {"state_dict": {**LAST, **{f"ema_{name.replace('.', '_')}": array for name, array in AVERAGED.items()}}},
    ],
)
def test_averaged_weights_under_every_key(read, content):
    assert read(content).has_averaged
    assert_same(read(content).state, LAST)
    assert_same(read(content, ema=True).state, AVERAGED)


def test_what_a_flat_file_does_not_average_is_the_same_for_both(read):
    weights = {"ema_stem_0_conv_weight": AVERAGED["stem.0.conv.weight"]}
    assert_same(read({**LAST, **weights}, ema=True).state, {**LAST, "stem.0.conv.weight": np.ones((2, 3))})


def test_names_that_only_look_averaged_stay(read):
    """A layer may be called so."""
    for other in ({"ema_gate.weight": ARRAY}, {"a.b_c": ARRAY, "a_b.c": ARRAY, "ema_a_b_c": ARRAY}):
        state, has_averaged = read({**LAST, **other})
        assert_same(state, {**LAST, **other})
        assert not has_averaged


@pytest.mark.parametrize(
    "content", [{"ema": AVERAGED}, {"params_ema": AVERAGED, "epoch": 3}, prefixed("ema_", AVERAGED)]
)
def test_a_file_of_averaged_weights_alone_is_taken_with_a_remark(read, content, caplog):
    with caplog.at_level(logging.INFO, logger="ppreplk"):
        assert_same(read(content).state, AVERAGED)
    assert "holds averaged weights only" in caplog.text
    assert_same(read(content, ema=True).state, AVERAGED)


def test_no_averaged_weights(read):
    with refused("checkpoints.no-averaged", "has no averaged weights"):
        read({"model": LAST}, ema=True)


def test_mmengine_saves_averaged_weights_as_its_state_dict(read, caplog):
    """Its EMAHook exchanges the two, so that state_dict can be deployed."""
    ema = {**prefixed("module.", LAST), "steps": np.array(7)}
    content = {"meta": {"mmengine_version": "0.10.4"}, "state_dict": AVERAGED, "ema_state_dict": ema}
    for wanted in (False, True):
        with caplog.at_level(logging.INFO, logger="ppreplk"):
            state, has_averaged = read(content, ema=wanted)
        assert_same(state, AVERAGED)
        assert not has_averaged
    assert caplog.text.count("its state_dict holds the averaged weights") == 2


def test_mmcv_may_have_exchanged_them(read, caplog):
    flat = {f"ema_{name.replace('.', '_')}": array for name, array in LAST.items()}
    content = {"meta": {"mmcv_version": "1.5.0"}, "state_dict": {**AVERAGED, **flat}}
    with caplog.at_level(logging.INFO, logger="ppreplk"):
        assert_same(read(content).state, AVERAGED)
    assert "mmcv exchanges" in caplog.text
    with refused("checkpoints.no-averaged", "mmcv exchanges"):
        read(content, ema=True)


def test_the_counter_of_an_averaged_model(read):
    """torch.optim.swa_utils.AveragedModel, its own state dict."""
    assert_same(read({"n_averaged": np.array(3), **prefixed("module.", LAST)}).state, prefixed("module.", LAST))


def test_a_table_that_holds_itself_ends(tmp_path):
    for key in ("model", "ema", "other"):
        table = {}
        table[key] = table
        (tmp_path / "cycle").write_bytes(pickle.dumps({"model": table}, protocol=4))
        with refused("checkpoints.no-weights"):
            read_weights(tmp_path / "cycle")


PREFIXES = [
    *("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "_layers."),
    *("encoder.", "model.module.net.", "_layers._layers.", "my_own_network."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_all_names(prefix):
    assert common_prefix(prefixed(prefix, LAST), lambda names: any(n.startswith("stem.") for n in names)) == prefix


def test_a_prefix_is_left_where_nothing_known_remains():
    known = ["stem.0.bias", "head.bias"]

    def is_known(names):
        return set(known) <= set(names)

    assert common_prefix(["module.stem.0.bias", "head.bias"], is_known) == ""
    assert common_prefix(["module.other.bias", "module.head.bias"], is_known) == ""
    assert common_prefix(["module", "module"], is_known) == ""
    assert common_prefix(["a." * 100_000 + "b"], is_known) == ""
    assert common_prefix([], is_known) == ""

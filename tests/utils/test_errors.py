"""The error for bad input: message, code and place; the nearest known name."""

import pickle

import pytest

from ppreplk.utils.errors import Incomplete, UserError, nearest


def test_an_error_has_a_code_and_a_place():
    error = UserError("unknown key", code="config.unknown-key", where="Global.epoch")
    assert (str(error), error.code, error.where) == ("Global.epoch: unknown key", "config.unknown-key", "Global.epoch")


def test_a_place_in_front_keeps_the_code():
    inner = UserError("must be odd, got 4", code="nn.kernel-size")
    outer = inner.at("Arch").at("config.yaml")
    assert (str(outer), outer.code) == ("config.yaml: Arch: must be odd, got 4", "nn.kernel-size")
    assert inner.where is None and str(inner) == "must be odd, got 4"


@pytest.mark.parametrize("kind, exit_code", [(UserError, 2), (Incomplete, 1)])
def test_an_error_travels_between_processes(kind, exit_code):
    error = kind("cannot be read", code="data.unreadable-image", where="caf\udce9.png").at("list.txt, line 1")
    received = pickle.loads(pickle.dumps(error))
    assert type(received) is kind and received.exit_code == exit_code
    assert str(received) == "list.txt, line 1: caf\udce9.png: cannot be read"
    assert (received.code, received.where) == ("data.unreadable-image", "list.txt, line 1")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("epoch", "; did you mean epochs?"),
        ("EPOCHS", "; did you mean epochs?"),
        ("zzz", "; known: Seed, device, epochs"),
        (7, "; known: Seed, device, epochs"),
    ],
)
def test_the_nearest_known_name(name, expected):
    assert nearest(name, ["epochs", "device", "Seed"]) == expected


def test_names_where_none_is_near():
    assert nearest("zzz", ["epochs", "device"], listed=["device"]) == "; known: device"
    assert nearest("zzz", []) == "; there are none to choose from"


def test_an_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(UserError("cannot be decoded", code="data.unreadable-image", where="a.png")))
    assert (str(error), error.code, error.where) == ("a.png: cannot be decoded", "data.unreadable-image", "a.png")


def test_an_error_can_be_made_again_from_its_message():
    assert str(UserError("Arch: even kernel")) == "Arch: even kernel"  # as paddle.jit does it

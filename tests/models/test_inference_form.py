"""The form for evaluation and prediction in eager mode: the numbers of the train form, and which operators compute."""

import paddle
import pytest
from helpers import random_images, randomise_batch_norms, relative_difference, require_channels_last_operators

from ppreplk.models import build_model, list_models
from ppreplk.models.inference_form import inference_form
from ppreplk.models.registry import Architecture, register, unregister
from ppreplk.nn.channels_last import ChannelsLastNetwork, Packing
from ppreplk.ops import loading

NARROW = {
    "RepLKNet": {"channels": (8, 12, 16, 24), "layers": (1, 1, 2, 1), "class_num": 7},
    "MobileNetV2": {"width": 0.25, "class_num": 7},
}


def built(name: str, **changes):
    narrow = next((arguments for prefix, arguments in NARROW.items() if name.startswith(prefix)), {})
    paddle.seed(0)
    model = build_model(name, **{**narrow, **changes})
    randomise_batch_norms(model)
    model.eval()
    return model


def check_numbers(form, model):
    """Sizes come and go: what was packed for one is packed again for the next."""
    for number, shape in enumerate([(1, 3, 64, 64), (2, 3, 40, 56), (3, 3, 40, 56), (1, 3, 64, 64)]):
        images = random_images(*shape, seed=number)
        with paddle.no_grad():
            assert relative_difference(form(images).numpy(), model(images).numpy()) < 1e-5


@pytest.mark.parametrize("name", list_models())
def test_the_channels_last_operators_give_the_numbers_of_the_train_form(name):
    require_channels_last_operators()
    model = built(name)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    form = inference_form(model)
    assert isinstance(form, ChannelsLastNetwork) and not form.training
    check_numbers(form, model)
    after = model.state_dict()
    assert all((after[key].numpy() == value).all() for key, value in before.items()) and before.keys() == after.keys()


@pytest.mark.parametrize("name", list_models())
def test_without_them_the_folded_network_does(name, monkeypatch, caplog):
    monkeypatch.setattr(loading, "available", lambda library: False)
    monkeypatch.setattr(loading, "load", lambda library: pytest.fail("nothing is built here"))
    model = built(name)
    with caplog.at_level("INFO"):
        form = inference_form(model)
    assert type(form) is type(model) and not form.training and form is not model
    assert not any(isinstance(layer, paddle.nn.BatchNorm2D) for layer in form.sublayers())
    (line,) = [message for message in caplog.messages if "computes" in message]
    assert "computes folded, in Paddle's operators: the channels-last operators are not built" in line
    check_numbers(form, model)


@pytest.mark.parametrize("impl", ["native", "fft"])
def test_an_implementation_that_was_chosen_stays(impl, caplog):
    with caplog.at_level("INFO"):
        form = inference_form(built("RepLKNet13T", depthwise_impl=impl))
    assert not isinstance(form, ChannelsLastNetwork) and f"depthwise_impl is {impl}" in caplog.text


def test_weights_are_packed_once_for_a_size():
    require_channels_last_operators()
    form = inference_form(built("RepLKNet13T"))
    parts = [part for part in form.parts if isinstance(part, Packing)]
    assert len(parts) == len(form.parts)

    def packed_for(*size):
        form(random_images(1, 3, *size))
        return [part.kept[1] for part in parts]

    first = packed_for(64, 64)
    assert all(a is b for a, b in zip(first, packed_for(64, 64)))
    assert not any(a is b for a, b in zip(first, packed_for(32, 64)))


def test_what_cannot_be_folded_computes_as_it_was_trained(caplog):
    model = built("RepLKNet13T")
    hook = model.stem[0].conv.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    with caplog.at_level("INFO"):
        assert inference_form(model) is model and not model.training
    assert "computes as it was trained: " in caplog.text and "has a hook" in caplog.text
    hook.remove()


def test_a_foreign_network_is_left_alone():
    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    assert inference_form(model) is model and not model.training


def test_an_architecture_without_a_graph_is_folded(caplog):
    class Plain(paddle.nn.Linear):
        def __init__(self):
            super().__init__(3, 2)

    architecture = register(Architecture("Plain", Plain, {"Plain": {}}))
    try:
        with caplog.at_level("INFO"):
            form = inference_form(Plain())
        assert isinstance(form, Plain) and "Plain has no description as a graph" in caplog.text
    finally:
        unregister(architecture)

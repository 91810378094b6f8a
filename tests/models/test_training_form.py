"""Training in the channels-last operators: the same network, up to rounding."""

import logging

import numpy as np
import paddle
import pytest
from helpers import refused, require_channels_last_operators, require_depthwise_operators
from paddle import nn

import ppreplk
from ppreplk.models import graph_of
from ppreplk.models.mobilenet_v2 import MobileNetV2
from ppreplk.models.replknet import RepLKNet
from ppreplk.models.training_form import training_form
from ppreplk.nn import Conv2D, DepthwiseConv2D
from ppreplk.nn.training_layout import ConvStep, NormStep, NormSumStep, TrainingNetwork
from ppreplk.ops import training_layers
from ppreplk.utils.errors import UserError

BF16X3 = "fp32-bf16x3"
CLASSES = 5
SMALL = {"large_kernel_sizes": (9, 7), "layers": (1, 2), "channels": (24, 40), "class_num": CLASSES}
NARROW = {"width": 0.25, "class_num": CLASSES, "strides": (2, 1, 2, 1, 1, 2, 1, 1)}
NETWORKS = {
    "parallel kernels": (RepLKNet, {**SMALL, "small_kernel": 3, "drop_path_rate": 0.4}),
    "one kernel": (RepLKNet, {**SMALL, "small_kernel": None, "dw_ratio": 1.5}),
    "recomputation": (RepLKNet, {**SMALL, "small_kernel": 5, "drop_path_rate": 0.4, "use_checkpoint": True}),
    "grey images": (RepLKNet, {**SMALL, "small_kernel": 3, "in_channels": 1}),
    "MobileNetV2": (MobileNetV2, {**NARROW, "kernel_size": 9, "small_kernel": 3}),
    "dilation": (MobileNetV2, {**NARROW, "kernel_size": 3, "dilation": 4, "shortcut": False}),
}


@pytest.fixture(autouse=True)
def operators():
    require_depthwise_operators()


@pytest.fixture
def no_tiles(monkeypatch):
    require_channels_last_operators()
    monkeypatch.setattr("ppreplk.ops.onednn.tiles_backend", lambda: "none")


def network(name, dtype="float32"):
    """With random statistics."""
    build, arguments = NETWORKS[name]
    native = {"depthwise_impl": "native"} if dtype == "float64" else {}
    paddle.seed(1)
    model = build(**arguments, **native)
    rng = np.random.default_rng(2)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            for tensor, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer._mean, -0.5), (layer._variance, 0.5)):
                tensor.set_value((rng.random(tensor.shape) + low).astype("float32"))
    model.train()
    return model.to(dtype=dtype)


def one_step(name, how, size, batch, products="fp32"):
    """Logits, gradients and statistics by name. ``how``: a layout, or ``float64`` for the network itself in that."""
    dtype = "float64" if how == "float64" else "float32"
    model = network(name, dtype)
    form = model if how == "float64" else training_form(model, how, products)
    rng = np.random.default_rng(3)
    channels = NETWORKS[name][1].get("in_channels", 3)
    images = paddle.to_tensor(rng.standard_normal((batch, channels, *size)).astype("float32")).astype(dtype)
    paddle.seed(4)  # of drop path
    logits = form(images)
    nn.functional.cross_entropy(logits, paddle.to_tensor(rng.integers(0, CLASSES, batch))).backward()
    results = {f"gradient of {key}": value.grad for key, value in model.named_parameters() if value.grad is not None}
    results.update({key: value for key, value in model.state_dict().items()}, logits=logits)
    return {key: value.numpy() for key, value in results.items()}


@pytest.mark.parametrize("size, batch", [((64, 64), 2), ((61, 45), 3), ((97, 70), 1)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_statistics_are_those_of_the_network(name, size, batch):
    """Against float64, at most a few times as far from it as the network itself in float32.

    MobileNetV2 has so many numbers that rounding pushes some of them over a corner of ReLU6, in either form, which
    changes gradients by up to some percent.
    """
    exact, native, ours = (one_step(name, how, size, batch) for how in ("float64", "nchw", "channels_last"))
    assert set(ours) == set(native) == set(exact)
    largest = max(np.abs(value).max() for key, value in exact.items() if key.startswith("gradient"))
    error = max(np.abs(native[key] - exact[key]).max() for key in exact if key.startswith("gradient"))
    for key, right in exact.items():
        allowed = 4 * np.abs(native[key] - right).max() + 2e-6 * np.abs(right).max()
        if key.startswith("gradient"):  # small sums of large terms
            allowed += error + (0.1 if NETWORKS[name][0] is MobileNetV2 else 1e-6) * largest
        assert np.abs(ours[key] - right).max() <= allowed, key


def test_what_is_computed_together():
    form = training_form(network("parallel kernels"), "channels_last")
    steps = [step for segment in form.segments for step in segment.steps]
    assert {type(step) for step in steps} == {ConvStep, NormStep, NormSumStep}
    pairs = [step for step in steps if isinstance(step, NormStep) and len(step.inputs) == 2]
    assert len(pairs) == 3 and all(step.activation == "relu" for step in pairs)
    assert sum(isinstance(step, NormSumStep) for step in steps) == 6
    assert [type(segment.steps[-1]) for segment in form.segments].count(NormSumStep) == 6  # blocks are cut apart


def test_training_goes_on_in_the_network_itself():
    model = network("parallel kernels")
    form = training_form(model, "channels_last")
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.SGD(0.1, parameters=parameters)
    images, labels = paddle.randn([4, 3, 32, 32]), paddle.to_tensor([0, 1, 2, 3])
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(form(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] and set(map(id, form.parameters())) == set(map(id, model.parameters()))
    model.eval()
    assert ppreplk.reparameterize(model)(images).shape == [4, CLASSES]


def test_auto_takes_the_operators_where_they_compute_the_network(caplog):
    caplog.set_level(logging.INFO)
    assert isinstance(training_form(network("parallel kernels")), TrainingNetwork)
    assert "training computes in the channels-last operators" in caplog.text


def test_in_eval_mode_the_network_itself_computes():
    model, images = network("parallel kernels"), paddle.randn([2, 3, 32, 32])
    form = training_form(model)
    model.eval()
    assert (form(images) == model(images)).all()
    model.train()
    model.norm.eval()  # a part of it
    before = model.norm._mean.clone()
    form(images)
    assert (model.norm._mean == before).all()


def native_layers():
    model = network("parallel kernels")
    ppreplk.nn.set_implementation(model, "native")
    return model


def a_frozen_norm():
    model = network("parallel kernels")
    model.norm.eval()
    return model


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: network("parallel kernels", "float64"), "not float32"),
        (lambda: RepLKNet(**SMALL, small_kernel=3, merged=True), "have no bias"),
        (lambda: RepLKNet(**SMALL, small_kernel=3, out_indices=[0, 1]), "backbone"),
        (native_layers, "depthwise convolution"),
        (a_frozen_norm, "no BatchNorm2D of this kind"),
        (lambda: nn.Sequential(nn.Conv2D(3, 8, 3)), "not a network of this package"),
    ],
)
def test_another_network_computes_itself_and_a_log_line_says_why(build, message, caplog):
    caplog.set_level(logging.INFO)
    model = build()
    assert training_form(model) is model
    assert message in caplog.text
    with pytest.raises(UserError, match="channels-last training is not possible"):
        training_form(model, "channels_last")


def test_without_the_operators_it_is_refused_or_left(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    model = network("one kernel")
    monkeypatch.setattr("ppreplk.ops.training_layers.available", lambda: False)
    assert training_form(model) is model and "python -m ppreplk.ops builds it" in caplog.text
    with refused("models.not-channels-last", "channels-last training is not possible", "not built"):
        training_form(model, "channels_last")


def test_every_map_is_looked_at():
    model = network("parallel kernels")
    form, seen = training_form(model), []
    form.look_at_maps(lambda layer, height, width: seen.append((layer, height, width)))
    form(paddle.randn([2, 3, 64, 48]))
    form.look_at_maps(None)
    form(paddle.randn([2, 3, 64, 48]))
    expected = {id(layer) for layer in model.sublayers() if isinstance(layer, (nn.Conv2D, DepthwiseConv2D))}
    sizes = {id(layer): (height, width) for layer, height, width in seen}
    assert expected <= set(sizes) and len(seen) == len(sizes)
    assert sizes[id(model.stem[0].conv)] == (64, 48) and sizes[id(model.norm)] == (8, 6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name][0] is RepLKNet])
def test_a_step_with_products_of_two_parts(tiles, name):
    """Against float64. Rounding pushes a few numbers over a corner of ReLU, so gradients before it differ more."""
    exact = one_step(name, "float64", (61, 45), 3)
    ours = one_step(name, "channels_last", (61, 45), 3, BF16X3)
    assert set(ours) == set(exact)
    gradients = [key for key in exact if key.startswith("gradient")]
    for key in set(exact) - set(gradients):
        assert np.abs(ours[key] - exact[key]).max() <= 5e-5 * np.abs(exact[key]).max(), key
    for key in gradients:
        if key.startswith(("gradient of head", "gradient of norm")):
            assert np.abs(ours[key] - exact[key]).max() <= 2e-4 * np.abs(exact[key]).max(), key
    error, whole = (
        sum(np.square(array[key], dtype="float64").sum() for key in gradients)
        for array in ({key: ours[key] - exact[key] for key in gradients}, exact)
    )
    assert error <= 0.05**2 * whole
    native = one_step(name, "channels_last", (61, 45), 3)
    assert any((native[key] != ours[key]).any() for key in exact), "other products"


def test_losses_with_products_of_two_parts_follow_those_of_float32(tiles):
    images, labels = paddle.randn([6, 3, 32, 32]), paddle.to_tensor([0, 1, 2, 3, 4, 0])
    losses: dict = {}
    for products in ("fp32", BF16X3):
        model = network("grey images")
        parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        optimizer = paddle.optimizer.AdamW(2e-3, parameters=parameters)
        form = training_form(model, "channels_last", products)
        losses[products] = []
        for _ in range(10):
            loss = nn.functional.cross_entropy(form(images[:, :1]), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses[products].append(float(loss))
    assert losses[BF16X3][-1] < 0.5 * losses[BF16X3][0] and losses[BF16X3] != losses["fp32"]
    np.testing.assert_allclose(losses[BF16X3][:5], losses["fp32"][:5], rtol=1e-3)
    np.testing.assert_allclose(losses[BF16X3], losses["fp32"], atol=0.03 * losses["fp32"][0])


def test_products_of_two_parts_under_recomputation(tiles):
    """The same bits, of outputs, gradients and statistics."""
    results = []
    for recompute in (False, True):
        model = network("parallel kernels")
        form = TrainingNetwork(model, graph_of(model), recompute, BF16X3)
        paddle.seed(4)
        images = paddle.to_tensor(np.random.default_rng(3).standard_normal((2, 3, 64, 48)).astype("float32"))
        logits = form(images)
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()])
    assert len(results[0]) > 50 and all((one == other).all() for one, other in zip(*results))


def test_frozen_parts_get_no_gradient_and_others_the_same(tiles):
    gradients = []
    for frozen in (False, True):
        model = network("one kernel")
        for parameter in model.stem.parameters() if frozen else []:
            parameter.stop_gradient = True
        form = training_form(model, "channels_last", BF16X3)
        form(paddle.ones([2, 3, 32, 32]) * paddle.arange(32.0)).square().sum().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert set(gradients[0]) - set(gradients[1]) == {key for key in gradients[0] if key.startswith("stem")}
    assert all((gradients[0][key] == gradient).all() for key, gradient in gradients[1].items())


def test_products_are_named_in_one_line(tiles, caplog):
    caplog.set_level(logging.INFO)
    form = training_form(network("one kernel"), "auto", BF16X3)
    assert "multiply in fp32-bf16x3, forward and backward" in caplog.text
    steps = [step for segment in form.segments for step in segment.steps if isinstance(step, ConvStep)]
    assert {step.products for step in steps} == {BF16X3}


def test_products_of_the_stem_and_of_all_pointwise_convolutions(tiles, monkeypatch):
    called, call = [], training_layers.call
    monkeypatch.setattr(training_layers, "call", lambda name, *rest: called.append(name) or call(name, *rest))
    model = network("one kernel")
    training_form(model, "channels_last", BF16X3)(paddle.randn([2, 3, 32, 32]))
    convolutions = [layer for layer in model.sublayers() if isinstance(layer, (Conv2D, DepthwiseConv2D))]
    dense = [layer for layer in convolutions if not isinstance(layer, DepthwiseConv2D)]
    assert called.count("ppreplk_training_product_weight") == 1, "images get no gradient"
    assert called.count("ppreplk_training_product") == len(dense) - 1 > 10


def test_without_amx_it_is_float32_to_the_last_bit(no_tiles, caplog):
    ours = one_step("one kernel", "channels_last", (61, 45), 2, BF16X3)
    lines = [record.getMessage() for record in caplog.records if "train_products" in record.getMessage()]
    no_effect = "Global.train_products=fp32-bf16x3 has no effect, training multiplies in float32"
    assert lines == [f"{no_effect}: this processor has no AMX"]
    for key, right in one_step("one kernel", "channels_last", (61, 45), 2).items():
        np.testing.assert_array_equal(ours[key], right)


@pytest.mark.parametrize("build, layout", [(native_layers, "auto"), (lambda: network("one kernel"), "nchw")])
def test_in_the_networks_own_layers_products_have_no_effect(build, layout, caplog):
    model = build()
    assert training_form(model, layout, BF16X3) is model
    lines = [record.getMessage() for record in caplog.records if "train_products" in record.getMessage()]
    assert len(lines) == 1 and "layers of the network itself" in lines[0]


@pytest.mark.slow
def test_a_step_of_a_whole_network(tiles):
    """RepLKNet-31B as it begins, two images, 90 seconds: pytest -m slow -s tests/models/test_training_form.py

    Batch normalization and the corners of ReLU make differences larger, also those between two orders of float32 sums.
    """
    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype("float32"))
    steps = {}
    for how in (("channels_last", "fp32"), ("nchw", "fp32"), ("channels_last", BF16X3)):
        paddle.seed(1)
        model = ppreplk.build_model("RepLKNet31B", drop_path_rate=0.0)
        model.train()
        logits = training_form(model, *how)(images)
        nn.functional.cross_entropy(logits, paddle.to_tensor([1, 7])).backward()
        gradients = [p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None]
        steps[how] = logits.numpy(), np.concatenate(gradients).astype("float64")
    (right, gradient), *others = steps.values()
    cosines = []
    for how, (logits, other) in zip(list(steps)[1:], others):
        difference = np.abs(logits - right).max() / np.abs(right).max()
        distance = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
        cosines.append(gradient @ other / np.linalg.norm(gradient) / np.linalg.norm(other))
        print(f"{how}: logits {difference:.1e}, gradient {distance:.1e}, cosine {cosines[-1]:.5f}")
    assert cosines[0] > 0.999 and cosines[1] > 0.99

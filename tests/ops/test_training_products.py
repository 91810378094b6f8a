"""Products of a training on emulated tile registers of AMX: values and both gradients, against float64."""

import numpy as np
import paddle
import pytest
from helpers import require_channels_last_operators

from ppreplk.ops import onednn, training_layers
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

BF16X3 = "fp32-bf16x3"
SHAPES = [  # rows, channels in and out
    (1, 1, 1),
    (1, 100, 33),
    (31, 3, 17),
    (32, 32, 32),
    (33, 17, 3),
    (33, 33, 100),
    (65, 32, 1),
    (98, 600, 100),  # several pieces of the depth
    (530, 100, 48),  # of the rows; several groups of columns; one thread shares out rows
    (1031, 33, 32),
    (2100, 17, 160),
]


@pytest.fixture(autouse=True, params=["emulated", "emulated plain"])
def backend(request):
    require_channels_last_operators()
    if not onednn.choose_tiles_backend(request.param):
        pytest.skip("no AVX-512 BF16")
    yield request.param
    onednn.choose_tiles_backend("none")
    set_threads(available_cores())


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def products(x, weight, dy):
    """y, dx, dweight by our kernels."""
    x, weight, dy = map(paddle.to_tensor, (x, weight, dy))
    x.stop_gradient = weight.stop_gradient = False
    y = training_layers.pointwise(x, weight, BF16X3)
    return [tensor.numpy() for tensor in (y, *paddle.grad([y], [x, weight], [dy]))]


def exact(x, weight, dy, size=lambda array: array):
    x, weight, dy = (size(array.astype("float64")) for array in (x, weight, dy))
    return x @ weight.T, dy @ weight, dy.T @ x


def case(rows, channels, out):
    return numbers(0, rows, channels), numbers(1, out, channels), numbers(2, rows, out)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, backend):
    if backend == "emulated plain" and np.prod(shape) > 5e5:
        pytest.skip("the other emulation has these")
    arrays = case(*shape)
    results = []
    for threads in (1, 2, 3, *([9] if shape[0] == 1031 else [])):  # 9 share out columns, fewer of them rows
        set_threads(threads)
        results.append(products(*arrays))
    sums = exact(*arrays, np.abs)
    for number, right in enumerate(exact(*arrays)):
        received = results[0][number]
        assert all(np.array_equal(result[number], received) for result in results), "threads change nothing"
        assert received.shape == right.shape
        error, largest = np.abs(received - right), np.abs(right).max()
        assert np.all(error <= 2**-15 * sums[number] + 1e-6 * largest)  # 2**-16 left out, 2**-17 twice lost
        terms = (shape[1], shape[2], shape[0])[number]
        if right.size >= 1000 and terms >= 32:
            assert error.max() <= 8e-6 * largest
            assert np.sqrt((error**2).mean()) <= 5e-6 * np.sqrt((right**2).mean())


def test_the_error_on_channels_of_a_network(backend):
    """4.4e-6 of the numbers' root mean square, whatever the layer: 17 bits."""
    if backend == "emulated":
        for shape in ((49, 512, 256), (196, 128, 512), (784, 512, 128)):
            arrays = case(*shape)
            for received, right in zip(products(*arrays), exact(*arrays)):
                error = np.abs(received - right)
                assert np.sqrt((error**2).mean()) <= 5e-6 * np.sqrt((right**2).mean())
                assert error.max() <= 8e-6 * np.abs(right).max()


def test_a_long_sum_over_rows_is_no_worse_than_paddles(backend):
    """Hundreds of pieces are added up in float32; Paddle's product does so too, whatever its order."""
    if backend == "emulated":
        x, weight, dy = case(30000, 20, 16)
        x, dy = x + 0.5, dy + 0.5  # sums that grow
        right = exact(x, weight, dy)[2]
        theirs = np.abs(paddle.matmul(paddle.to_tensor(dy), paddle.to_tensor(x), transpose_x=True).numpy() - right)
        error = np.abs(products(x, weight, dy)[2] - right)
        assert error.max() <= 2 * theirs.max() + 5e-6 * np.abs(right).max()


def test_both_emulations_round_alike(backend):
    if backend == "emulated":
        arrays = case(130, 70, 40)
        first = products(*arrays)
        onednn.choose_tiles_backend("emulated plain")
        for one, other in zip(first, products(*arrays)):
            np.testing.assert_array_equal(one, other)


def test_only_the_gradients_that_are_needed(backend):
    x, weight, dy = case(40, 33, 20)
    all_of_them = products(x, weight, dy)
    for needs in ((True, True), (True, False), (False, True)):
        tensors = [paddle.to_tensor(array, stop_gradient=not need) for array, need in zip((x, weight), needs)]
        y = training_layers.pointwise(*tensors, BF16X3)
        y.backward(paddle.to_tensor(dy))
        np.testing.assert_array_equal(y.numpy(), all_of_them[0])
        for tensor, need, right in zip(tensors, needs, all_of_them[1:]):
            assert (tensor.grad is not None) == need
            assert not need or np.array_equal(tensor.grad.numpy(), right)
    tensors = [paddle.to_tensor(array, stop_gradient=False) for array in (x, weight)]
    with paddle.no_grad():
        y = training_layers.pointwise(*tensors, BF16X3)
    assert np.array_equal(y.numpy(), all_of_them[0])
    y.sum().backward()  # recorded nothing before y
    assert all(tensor.grad is None for tensor in tensors)
    y = training_layers.pointwise(*(tensor.detach() for tensor in tensors), BF16X3)
    assert y.stop_gradient and np.array_equal(y.numpy(), all_of_them[0])


def test_gradients_that_are_not_needed_are_not_computed(backend, monkeypatch):
    """The operator's name says which it has."""
    called, call = [], training_layers.call
    monkeypatch.setattr(training_layers, "call", lambda name, *rest: called.append(name) or call(name, *rest))
    for needs in ((True, True), (True, False), (False, True)):
        x, weight = (paddle.ones([4, 4]) for _ in needs)
        x.stop_gradient, weight.stop_gradient = (not need for need in needs)
        training_layers.pointwise(x, weight, BF16X3)
    product = "ppreplk_training_product"
    assert called == [product, f"{product}_input", f"{product}_weight"]


def test_views_and_maps(backend):
    """Tensors (N, H, W, C), also such as lie in memory in another order; gradients that are one number everywhere."""
    x, weight = numbers(0, 2, 20, 5, 7), numbers(1, 9, 20, 1, 1)
    plain = paddle.to_tensor(x, stop_gradient=False)
    kernel = paddle.to_tensor(weight, stop_gradient=False)
    y = training_layers.pointwise(plain.transpose([0, 2, 3, 1]), kernel, BF16X3)
    y.sum().backward()
    expected = products(x.transpose(0, 2, 3, 1).reshape(-1, 20), weight.reshape(9, 20), np.ones((70, 9), "float32"))
    np.testing.assert_array_equal(y.numpy().reshape(-1, 9), expected[0])
    np.testing.assert_array_equal(plain.grad.numpy(), expected[1].reshape(2, 5, 7, 20).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(kernel.grad.numpy(), expected[2].reshape(9, 20, 1, 1))


def test_convolution_of_images(backend):
    images = paddle.to_tensor(numbers(0, 2, 3, 15, 13))
    weight = paddle.to_tensor(numbers(1, 6, 3, 3, 3), stop_gradient=False)
    results = []
    for how in ("fp32", BF16X3):
        y = training_layers.images_conv(images, weight, 2, how)
        (gradient,) = paddle.grad([y], [weight], [paddle.to_tensor(numbers(2, *y.shape))])
        results.append([y.numpy(), gradient.numpy()])
    for right, received in zip(*results):
        assert received.shape == right.shape and 0 < np.abs(received - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.397e38], ids=str)
def test_what_is_beyond_spoils_its_sums_and_no_others(value, backend):
    """3.397e38 is infinite as bfloat16."""
    good = products(*case(40, 35, 50))
    for spoilt, places in enumerate(
        [
            [(0, (3, slice(None))), (2, (slice(None), 5))],  # x[3, 5]: a row of y, a column of dweight
            [(0, (slice(None), 3)), (1, (slice(None), 5))],  # weight[3, 5]: a column of y, a column of dx
            [(1, (3, slice(None))), (2, (5, slice(None)))],  # dy[3, 5]: a row of dx, a row of dweight
        ]
    ):
        arrays = case(40, 35, 50)
        arrays[spoilt][3, 5] = value
        results = products(*arrays)
        for number, place in places:
            assert np.isnan(results[number][place]).all()
            results[number][place] = good[number][place]
        for received, right in zip(results, good):
            np.testing.assert_array_equal(received, right)


def test_denormal_numbers_are_zero(backend):
    """As AMX takes them; a product that would be a normal number again shows it."""
    tiny, large = (np.full((32, 32), value, "float32") for value in (1e-39, 1e30))
    for arrays, zeros in (((tiny, large, tiny), (0, 1, 2)), ((large, tiny, large), (0, 1))):
        results = products(*arrays)
        assert all((results[number] == 0).all() for number in zeros)
    small = products(*(np.full((32, 32), value, "float32") for value in (1e-30, 1.01, 1e-30)))
    assert np.allclose(small[0], 32 * 1.01e-30, rtol=1e-5, atol=0), "gradients are far above"


def test_no_rows_and_what_does_not_fit(backend):
    y, dx, dweight = products(*case(0, 4, 3))
    assert y.shape == (0, 3) and dx.shape == (0, 4) and (dweight == np.zeros((3, 4))).all()
    x, weight = paddle.ones([2, 3, 3, 4]), paddle.ones([5, 4, 1, 1])
    for call, message in [
        (
            lambda: training_layers.pointwise(x, paddle.ones([5, 3, 1, 1]), BF16X3),
            r"got \[2, 3, 3, 4\] and \[5, 3, 1, 1\]",
        ),
        (
            lambda: training_layers.pointwise(x.astype("float64"), weight, BF16X3),
            "X of a training product must be float32",
        ),
        (lambda: training_layers.pointwise(x[0, 0, 0], weight, BF16X3), r"x \(\.\.\., in\)"),
        (lambda: training_layers.pointwise(x, weight[:0], BF16X3), "a training product needs"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    onednn.choose_tiles_backend("none")
    if onednn.tiles_backend() == "none":
        assert training_layers.products_problem(BF16X3) == "this processor has no AMX"
        with pytest.raises(ValueError, match="no AMX"):
            training_layers.pointwise(x, weight, BF16X3)


def test_which_products_are_possible(backend, monkeypatch):
    assert training_layers.products_problem("fp32") is None and training_layers.products_problem(BF16X3) is None
    monkeypatch.setattr("ppreplk.ops.loading.available", lambda library: False)
    assert "python -m ppreplk.ops channels_last builds them" in training_layers.products_problem(BF16X3)

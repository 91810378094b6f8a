"""Effective receptive field: the area function on maps made by hand, and the map's own properties."""

import numpy as np
import paddle
import pytest
from helpers import random_images, refused, small_network
from paddle import nn

from ppreplk import fold
from ppreplk.analysis.receptive_field import (
    contribution_map,
    high_contribution_area,
    last_features,
    mean_contribution_map,
)
from ppreplk.config import ArchConfig
from ppreplk.models import RepLKNet
from ppreplk.models.arch import build_network
from ppreplk.utils.errors import UserError


def uniform_square(size: int, half: int) -> np.ndarray:
    """Equal contributions in the centred square of side 2 * half + 1."""
    contributions = np.zeros((size, size))
    centre = size // 2
    contributions[centre - half : centre + half + 1, centre - half : centre + half + 1] = 3.0
    return contributions


def test_area_of_a_uniform_square():
    contributions = uniform_square(101, 20)  # 41 x 41 equal scores
    for share in (0.2, 0.5, 0.99):
        side, ratio = high_contribution_area(contributions, share)
        assert side**2 / 41**2 > share >= (side - 2) ** 2 / 41**2
        assert ratio == pytest.approx((side / 101) ** 2)


def test_the_share_must_be_exceeded_strictly():
    contributions = uniform_square(31, 1)
    contributions[15, 15] = 0  # eight equal scores around an empty centre
    contributions[0, :8] = 3.0  # and eight far away
    assert high_contribution_area(contributions, 0.49) == (3, pytest.approx((3 / 31) ** 2))
    assert high_contribution_area(contributions, 0.5) == (31, 1.0)


def test_where_no_square_suffices_the_whole_map_is_returned():
    contributions = np.zeros((20, 30))
    contributions[0, 0] = 1.0
    assert high_contribution_area(contributions, 0.2) == (30, 1.0)


def test_scores_are_logarithms_scaled_to_their_largest():
    contributions = uniform_square(41, 1)
    contributions[0, 0] = 10.0**6  # score 6 of 6 + 9 * log10(4): 52% of the total
    assert high_contribution_area(contributions, 0.4)[0] == 3
    assert high_contribution_area(contributions, 0.5) == (41, 1.0)


@pytest.mark.parametrize(
    "contributions, share, message",
    [
        (np.full((9, 9), np.nan), 0.2, "NaN"),
        (np.full((9, 9), -1.0), 0.2, "negative"),
        (np.zeros((9, 9)), 0.2, "all zero"),
        (np.ones(9), 0.2, "two dimensions"),
        (np.ones((9, 9)), 20, "between 0 and 1"),
    ],
)
def test_bad_maps_are_refused(contributions, share, message):
    with refused("analysis.share" if share > 1 else "analysis.not-a-map", message):
        high_contribution_area(contributions, share)


def test_maps_of_a_batch_add_up_and_the_mode_is_kept():
    model = small_network()
    model.train()
    images = random_images(2, 3, 48, 64)
    both = contribution_map(model, images)
    assert both.shape == (48, 64) and (both >= 0).all() and model.training
    parts = contribution_map(model, images[:1]) + contribution_map(model, images[1:])
    np.testing.assert_allclose(both, parts, rtol=1e-4, atol=1e-6 * both.max())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_are_trainable_again():
    model = small_network()
    before = [parameter.stop_gradient for parameter in model.parameters()]
    contribution_map(model, random_images(1, 3, 32, 32))
    assert [parameter.stop_gradient for parameter in model.parameters()] == before


class Pooled(paddle.nn.Layer):
    """A network by somebody else: two poolings, the first inside an attention to channels."""

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Conv2D(3, 4, 5, padding=2)
        self.gate = paddle.nn.AdaptiveAvgPool2D(1)
        self.second = paddle.nn.Conv2D(4, 4, 3, padding=1)
        self.pool = paddle.nn.AdaptiveAvgPool2D(1)
        self.fc = paddle.nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        x = self.second(x * self.gate(x))
        return self.fc(self.pool(x).flatten(1))


def test_features_of_any_network_are_what_it_pools_last():
    model, images = Pooled(), random_images(1, 3, 12, 14)
    features = last_features(model, images)
    np.testing.assert_array_equal(features, last_features(model, images, "second"))
    assert features.shape == [1, 4, 12, 14] and last_features(model, images, "first").shape == [1, 4, 12, 14]
    assert not model.pool._forward_post_hooks and not model.second._forward_post_hooks


@pytest.mark.parametrize(
    "layer, code, parts",
    [
        ("fc", "analysis.no-feature-map", ["Pooled: fc is no feature map", "one of first, gate"]),
        ("secnd", "analysis.unknown-layer", ["no layer 'secnd'; did you mean second"]),
    ],
)
def test_layers_that_give_no_feature_map_are_refused(layer, code, parts):
    with refused(code, *parts):
        last_features(Pooled(), random_images(1, 3, 8, 8), layer)


def test_a_network_without_feature_maps_is_refused():
    with refused("analysis.no-feature-map", "what it pools is no feature map"):
        contribution_map(paddle.nn.Flatten(), random_images(1, 2, 3, 3))


def test_the_mean_is_over_finite_maps_and_the_last_image_counts(caplog):
    model = Pooled()
    images = [("a", random_images(1, 3, 32, 32)), ("b", random_images(1, 3, 32, 32, seed=1))]
    expected = sum(contribution_map(model, image) for _, image in images) / 2
    broken = ("broken.png", images[0][1] * np.nan)
    with caplog.at_level("WARNING"):
        received = mean_contribution_map(model, [images[0], broken, images[1]])
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    assert "broken.png" in caplog.text
    with refused("analysis.no-finite-map", "1 were tried"):
        mean_contribution_map(model, [broken])
    with refused("analysis.no-finite-map", "no image"):
        mean_contribution_map(model, [])


class OneSize(Pooled):
    def forward_features(self, x):
        raise AssertionError("only 224")  # as paddleclas's transformers do


def test_a_network_for_another_size_is_refused():
    with refused("analysis.image-size", "OneSize does not run on images of 5x5 (only 224)"):
        contribution_map(OneSize(), random_images(1, 3, 5, 5))


class ForSomeSizes(nn.Layer):
    """A network of somebody else's: a pooling without padding, and a linear layer over all pixels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2D(3, 4, 3, stride=2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2D(2)
        self.flat = nn.Linear(16, 2)

    def forward(self, x):
        features = self.conv(x)
        return self.flat(self.pool(features + features[:, :, :3, :3]).flatten(1))


@pytest.mark.parametrize("size", [9, 20])
def test_what_a_foreign_network_raises_at_a_size_is_one_line(size):
    model = ForSomeSizes()
    assert contribution_map(model, random_images(1, 3, 7, 7)).shape == (7, 7)
    with pytest.raises(UserError) as caught:
        contribution_map(model, random_images(1, 3, size, size))
    message = str(caught.value)
    assert caught.value.code == "analysis.image-size" and "\n" not in message
    assert f"ForSomeSizes does not run on images of {size}x{size} (" in message
    assert "Broadcast dimension mismatch" in message


def test_an_empty_feature_map_is_one_line():
    class Shrinking(nn.Layer):
        def forward_features(self, x):
            return x[:, :, 8:, 8:]

    with refused("analysis.image-size", "images of 8x8 (its last feature map is empty, [1, 3, 0, 0])"):
        contribution_map(Shrinking(), random_images(1, 3, 8, 8))


def test_a_defect_of_a_network_of_ours_keeps_its_traceback(monkeypatch):
    def broken(x):
        raise RuntimeError("a defect")

    model = small_network()
    monkeypatch.setattr(model, "forward_features", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        contribution_map(model, random_images(1, 3, 32, 32))


@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV3_small_x0_35", "DenseNet121"])
def test_backbones_of_paddleclas_at_small_sizes(name, size):
    pytest.importorskip("paddleclas")
    model = build_network(ArchConfig(where="Arch", arguments={}, name=name))  # more than once in this process
    contributions = contribution_map(model, random_images(1, 3, size, size))
    assert contributions.shape == (size, size) and contributions.max() > 0
    assert high_contribution_area(contributions, 0.99)[1] <= 1


def area_at_random(width: int, size: int, kernels: tuple[int, ...]) -> float:
    """The 20% area of a RepLKNet with the depth of the base models, random weights and images."""
    paddle.seed(0)
    model = RepLKNet(kernels, (2, 2, 18, 2), [width * scale for scale in (1, 2, 4, 8)], None if kernels[0] == 3 else 5)
    contributions = contribution_map(fold(model, inplace=True), random_images(1, 3, size, size))
    return high_contribution_area(contributions, 0.2)[1]


@pytest.mark.parametrize("width", [8, pytest.param(128, marks=pytest.mark.slow)])
def test_larger_kernels_see_further(width):
    """Narrow networks by default; at the published width with -m slow."""
    areas = [area_at_random(width, 512, kernels) for kernels in ((3,) * 4, (13,) * 4, (31, 29, 27, 13))]
    assert areas[0] < areas[1] < areas[2]

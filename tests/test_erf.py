"""Effective receptive field: the area function on maps made by hand, and the map's own properties."""

import numpy as np
import paddle
import pytest
from conftest import random_images, small_network

from ppreplk.erf import contribution_map, high_contribution_area
from ppreplk.errors import UserError


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
    with pytest.raises(UserError, match=message):
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


def test_a_network_without_feature_maps_is_refused():
    with pytest.raises(UserError, match="forward_features"):
        contribution_map(paddle.nn.Linear(2, 2), random_images(1, 2))

"""Which versions of Paddle will do."""

import pytest
from helpers import refused

from ppreplk.utils.paddle_version import check_paddle, is_before


@pytest.mark.parametrize("version", ["3.1.0", "3.3.1", "3.2.2.post1", "0.0.0", "3.4.0.dev20261101", "3.10.0"])
def test_a_paddle_that_will_do(version):
    check_paddle(version)


@pytest.mark.parametrize("version", ["3.0.0", "2.6.2", "4.0.0", "4.0.0-rc0"])
def test_a_paddle_of_another_age_is_refused(version):
    with refused("utils.paddle-version", f"Paddle is {version} here", "paddlepaddle>=3.1,<4", "GPU"):
        check_paddle(version)


def test_older_than():
    assert is_before("3.2.2", (3, 3)) and not is_before("3.3.0", (3, 3))
    assert not is_before("3.10.0", (3, 3)) and not is_before("0.0.0", (3, 3))

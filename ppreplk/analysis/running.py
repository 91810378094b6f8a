"""Running networks of any origin on images of any size, which not all of them take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from paddle import nn

from ..models import architecture_of
from ..utils.errors import UserError
from ..utils.paddle_errors import PADDLE_ERRORS, paddle_reason


@contextmanager
def running(model: nn.Layer, name: str, shape: Sequence[int]) -> Iterator[None]:
    """Say in one line that a network does not run on images of this shape.

    Networks of paddleclas may be made for one size, or for none below a few pixels, and end in whatever Paddle or
    they themselves raise.

    Args:
        model: the network. An error of one of ours is a defect, and stays as it is.
        name: what messages call it.
        shape: of the images, (N, C, H, W).

    Raises:
        UserError: it does not run; the message quotes the reason.
    """
    try:
        yield
    except UserError:
        raise
    except AssertionError as error:  # of a network that is made for one size
        raise not_for_size(name, shape, str(error)) from error
    except (*PADDLE_ERRORS, TypeError, ZeroDivisionError) as error:
        if architecture_of(model) is not None:
            raise
        raise not_for_size(name, shape, paddle_reason(error)) from error


def not_for_size(name: str, shape: Sequence[int], reason: str) -> UserError:
    """The error for a network that does not run on images of this shape (N, C, H, W)."""
    size = "x".join(map(str, shape[2:]))
    return UserError(f"{name} does not run on images of {size} ({reason})", code="analysis.image-size")

"""Which of several processes this is. Needs no Paddle, so that messages need none."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process of a training, from 0. Process 0 alone logs and writes.

    It is what Paddle's launcher has set, where Paddle reads it too.
    """
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))

"""Images that several tests of the data room use."""

import io

import numpy as np
from PIL import Image

RNG = np.random.default_rng


def picture(height=37, width=53, seed=0) -> np.ndarray:
    return RNG(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()

"""The requirements, which depend on the Paddle that is installed; everything else is in pyproject.toml."""

import sysconfig
from importlib import metadata

from setuptools import setup


def gpu_paddle_installed() -> bool:
    """Whether the target environment has a GPU wheel of Paddle, which carries another distribution name.

    pip builds in an isolated environment, so the target's site-packages is asked by path.
    """
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found = metadata.distributions(name="paddlepaddle-gpu", path=list(paths))
    return any(found)


setup(
    install_requires=[
        # the framework
        *([] if gpu_paddle_installed() else ["paddlepaddle>=3.0,<4"]),
        # baselines by Arch.name, class names of ImageNet; pins numpy, and exists for Python below 3.12 only
        'paddleclas>=2.6; python_version < "3.12"',
        # arrays
        "numpy",
        # checkpoints in its format
        "safetensors>=0.6.1",
        # configuration files
        "pyyaml>=6.0",
        # image decoding and transforms
        "pillow>=9.1",
        # load_digits and two photographs: real images that need no download
        "scikit-learn>=1.0",
        # math threads of eager mode at run time
        "threadpoolctl>=3.1",
        # progress bars
        "tqdm>=4.60",
        # Paddle's own build helpers import it without declaring it
        "setuptools",
    ]
)

"""Packaging. `pip install -e .` installs everything that training, evaluation and export need."""

import re
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ppreplk/__init__.py").read_text(encoding="utf-8")).group(1)


def gpu_paddle_installed() -> bool:
    """Whether the target environment has a GPU wheel of Paddle, which carries another distribution name.

    pip builds in an isolated environment, so the target's site-packages is asked by path.
    """
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found = metadata.distributions(name="paddlepaddle-gpu", path=list(paths))
    return any(found)


# What each requirement is for.
REQUIREMENTS = [
    # the framework
    *([] if gpu_paddle_installed() else ["paddlepaddle>=3.0,<4"]),
    # baselines by Arch.name, class names of ImageNet; pins numpy, and exists for Python below 3.12 only
    'paddleclas>=2.6; python_version < "3.12"',
    # arrays
    "numpy",
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

# oneDNN's headers, which Paddle's wheel lacks: building the channels-last operators needs them. That package requires
# oneDNN itself and its runtime (2 GB), which are not used; pip install --no-deps brings the headers alone.
ONEDNN_HEADERS = 'onednn-devel==2025.0.*; sys_platform == "linux" and platform_machine == "x86_64"'

setup(
    name="ppreplk",
    version=VERSION,
    description="RepLKNet for PaddlePaddle: 31x31 depthwise kernels, re-parameterized before export",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "."},  # an editable install is then a plain path, which a folder called ppreplk cannot shadow
    packages=find_packages(include=["ppreplk", "ppreplk.*"]),
    package_data={"ppreplk.ops": ["csrc/*/*"]},  # C++ sources, compiled when somebody asks
    python_requires=">=3.9",
    install_requires=REQUIREMENTS,
    extras_require={
        # tests on several cores, the operators they build, lint; nbclient and ipykernel for the notebook, a slow test
        "dev": [
            *["pytest>=7", "pytest-xdist>=3", "ruff>=0.4", "nbclient", "ipykernel", "matplotlib>=3.6"],
            ONEDNN_HEADERS,
        ],
        # programs exported with Global.export_runtime=channels_last: building their operators
        "onednn": [ONEDNN_HEADERS],
        # other frameworks, to measure beside ours; figures
        "benchmark": ["torch", "onnx", "onnxruntime", "openvino", "matplotlib"],
        # pictures of tools/study.py and tools/erf.py, where paddleclas has not brought it
        "figures": ["matplotlib>=3.6"],
        # pictures in the notebook, where paddleclas has not brought it; curves
        "notebook": ["matplotlib", "visualdl"],
    },
)

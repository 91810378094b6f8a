"""What setuptools cannot be told in pyproject.toml: requirements that differ, and recipes that move into the wheel."""

import os
import shutil
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PADDLE = "paddlepaddle>=3.1,<4"  # as the extra "cpu" of pyproject.toml


def paddle() -> list[str]:
    """The requirement of Paddle.

    A wheel has none. It cannot know whether it will meet Paddle's CPU or GPU wheel, which carry two distribution names,
    and requiring one would install it beside, over the other. An editable installation requires the CPU wheel, unless
    the GPU wheel is there. pip builds in an isolated environment, so the target's site-packages is asked by path.
    """
    if not os.environ.get("PPREPLK_EDITABLE"):  # set by build_backend.py
        return []
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return [] if any(metadata.distributions(name="paddlepaddle-gpu", path=list(paths))) else [PADDLE]


class BuildPy(build_py):
    """Also copies ``configs`` to ``ppreplk/configs``, unless the installation is editable: that reads the original."""

    def run(self) -> None:
        if not self.editable_mode:  # else build_lib is not ours to clear
            shutil.rmtree(Path(self.build_lib, "ppreplk"), ignore_errors=True)  # of an earlier build
        super().run()
        for source, target in self.recipes().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target)

    def recipes(self) -> dict[str, str]:
        """{file: its copy}"""
        if self.editable_mode:
            return {}
        files = [path for path in Path("configs").rglob("*") if path.suffix in (".yaml", ".yml", ".json")]
        return {str(path): str(Path(self.build_lib, "ppreplk", path)) for path in sorted(files)}

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self.recipes()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self.recipes().values()]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **{target: source for source, target in self.recipes().items()}}


setup(
    cmdclass={"build_py": BuildPy},
    install_requires=[
        # the framework
        *paddle(),
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
    ],
)

"""What setuptools cannot be told in pyproject.toml.

Requirements differ, recipes move into the wheel, and a wheel may hold compiled code.
"""

import os
import shutil
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

from ppreplk.ops import compiler
from ppreplk.utils.errors import UserError

PADDLE = "paddlepaddle>=3.1,<4"  # as the extra "cpu" of pyproject.toml
# What a wheel holds compiled: nothing, the core, or also the operators for the Paddle that is installed here.
NOTHING, CORE, OPERATORS = "", "core", "operators"
PREBUILT = os.environ.get("PPREPLK_PREBUILT", NOTHING)  # set by build_backend.py


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


def prebuild(folder: Path) -> list[Path]:
    """Compile what :data:`PREBUILT` says into a folder; returns the files."""
    files = [compiler.build_core(folder)]
    if PREBUILT == OPERATORS:
        from ppreplk.ops import build  # it imports Paddle

        files += [build.prebuild(library, folder) for library in (build.DEPTHWISE, build.CHANNELS_LAST)]
    return files


class BuildPy(build_py):
    """Also compiles what is asked for, and copies ``configs`` to ``ppreplk/configs``.

    Not if the installation is editable: that compiles when it runs, and reads the original.
    """

    prebuilt: tuple[Path, ...] = ()

    def run(self) -> None:
        if not self.editable_mode:  # else build_lib is not ours to clear
            shutil.rmtree(Path(self.build_lib, "ppreplk"), ignore_errors=True)  # of an earlier build
        super().run()
        for source, target in self.recipes().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target)
        if PREBUILT and not self.editable_mode:
            try:
                self.prebuilt = tuple(prebuild(Path(self.build_lib, "ppreplk", "ops", compiler.PREBUILT.name)))
            except UserError as error:
                raise SystemExit(f"error: {error} [{error.code}]") from None

    def recipes(self) -> dict[str, str]:
        """{file: its copy}"""
        if self.editable_mode:
            return {}
        files = [path for path in Path("configs").rglob("*") if path.suffix in (".yaml", ".yml", ".json")]
        return {str(path): str(Path(self.build_lib, "ppreplk", path)) for path in sorted(files)}

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self.recipes()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self.recipes().values(), *map(str, self.prebuilt)]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **{target: source for source, target in self.recipes().items()}}


class Package(Distribution):
    """What setuptools installs where compiled code belongs, if there is some."""

    def has_ext_modules(self) -> bool:
        return bool(PREBUILT)


class Wheel(bdist_wheel):
    """With compiled code it is for one platform, and for any Python: no code here knows Python's own libraries."""

    def get_tag(self) -> tuple[str, str, str]:
        if not PREBUILT:
            return super().get_tag()
        files = self.get_finalized_command("build_py").prebuilt
        return "py3", "none", compiler.platform_tag(files, sysconfig.get_platform())


if PREBUILT not in (NOTHING, CORE, OPERATORS):
    raise SystemExit(f"error: prebuilt={PREBUILT} is neither {CORE} nor {OPERATORS}")
setup(
    distclass=Package,
    cmdclass={"build_py": BuildPy, "bdist_wheel": Wheel},
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

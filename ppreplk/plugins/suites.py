"""What PaddleSeg and PaddleDetection share here: backbones with weights, a checkout or a wheel, patches.

A suite's plugin describes its suite as a :class:`Suite`. Its launcher then does

    checkout = SUITE.open(given)                  # on the path and imported, from a checkout or the wheel
    register(); apply_patches(PATCHES)
    check_files(arguments, {"--config": ...})     # what the suite would answer with a traceback
    SUITE.run_tool(checkout, "train", arguments)  # only in a checkout; errors of ours come out as they went in

and what builds a backbone for it is :func:`build_backbone`. Exported programs are run by :mod:`.suite_programs`.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from paddle import nn

from ..checkpoints.backbone_weights import load_backbone
from ..models.arch import build_checked
from ..models.registry import architectures, find_model, list_backbones
from ..utils.errors import UserError
from ..utils.optional import import_problem

logger = logging.getLogger(__name__)

# ----------------------------------------------------------------------------------------------------------------------
# Backbones


def backbone_names() -> list[str]:
    """The models that can be backbones, and the architectures, whose networks take all arguments explicitly.

    >>> [name for name in backbone_names() if "31" in name or name == "RepLKNet"]
    ['RepLKNet', 'RepLKNet31B', 'RepLKNet31L']
    """
    return sorted([*list_backbones(), *(each.name for each in architectures() if each.is_backbone)])


def build_backbone(
    name: str, arguments: Mapping[str, Any], pretrained: Optional[str] = None, where: str = "model.backbone"
) -> nn.Layer:
    """A backbone: (N, C, H, W) -> list of feature maps, whose widths are its ``feat_channels``.

    Args:
        name: one of :func:`backbone_names`.
        arguments: of the network, as they stand in the suite's configuration. ``out_indices`` is all stages unless
            given.
        pretrained: a file with weights, see :func:`load_backbone`.
        where: the section of the configuration, for messages.

    Raises:
        UserError: unknown or unfitting arguments, or weights that do not fit.

    >>> build_backbone("RepLKNet13T", {"drop_path_rate": 0.1}).feat_channels
    [16, 32, 64, 128]
    """
    arguments = dict(arguments)
    if arguments.get("out_indices") is None:
        own = {} if name in {each.name for each in architectures()} else find_model(name).arguments
        layers = arguments.get("layers", own.get("layers"))
        arguments["out_indices"] = list(range(len(layers) if isinstance(layers, (list, tuple)) else 1))
    network = build_checked(name, arguments, where)
    if pretrained:
        if not isinstance(pretrained, (str, Path)):
            raise UserError(
                f"expected one file, got {pretrained!r}", code="plugins.bad-path", where=f"{where}.pretrained"
            )
        load_backbone(network, str(pretrained))
    return network


# ----------------------------------------------------------------------------------------------------------------------
# Patches


@dataclass(frozen=True)
class Patch:
    """A change to an installed suite that makes it work with the installed Paddle.

    Args:
        name: what it changes, for example ``"core.train: losses of no dimension"``.
        reason: what fails without it, in one sentence.
        is_needed: whether it fails here, told from what the suite does, not from its version where that can be.
        apply: the change.
    """

    name: str
    reason: str
    is_needed: Callable[[], bool]
    apply: Callable[[], None]


def apply_patches(patches: Sequence[Patch]) -> list[str]:
    """Apply those patches that are needed. Each is named with its reason in a log line.

    A second call applies nothing: what is patched does not fail any more.

    Returns:
        The names of those that were applied.
    """
    applied = []
    for patch in patches:
        if patch.is_needed():
            patch.apply()
            logger.info("patched %s: %s", patch.name, patch.reason)
            applied.append(patch.name)
    return applied


# ----------------------------------------------------------------------------------------------------------------------
# Checkout or wheel


@dataclass(frozen=True)
class Suite:
    """A suite, as a source checkout or an installed wheel.

    Args:
        name: what messages call it.
        package: what is imported.
        variable: environment variable that names a checkout.
        wheel: what pip installs.
        tools: {command: file in the checkout}.
    """

    name: str
    package: str
    variable: str
    wheel: str
    tools: Mapping[str, str]

    def find_checkout(self, given: Optional[str] = None) -> Optional[Path]:
        """The checkout that is named, that of the environment variable, or the current folder; None without one.

        Raises:
            UserError: what is named is no checkout.
        """
        for text, where in ((given, "--checkout"), (os.environ.get(self.variable), self.variable)):
            if text:
                if not self._is_checkout(Path(text)):
                    raise UserError(
                        f"{text} is no checkout of {self.name}: there is no {self.package}/__init__.py or tools/ in it",
                        code="plugins.no-checkout",
                        where=where,
                    )
                return Path(text).absolute()
        return Path.cwd() if self._is_checkout(Path.cwd()) else None

    def _is_checkout(self, folder: Path) -> bool:
        files = [f"{self.package}/__init__.py", *self.tools.values()]
        return all((folder / file).is_file() for file in files)

    def open(self, given: Optional[str] = None) -> Optional[Path]:
        """Import the suite, from its checkout if there is one, else from the wheel.

        Returns:
            The checkout, which is first on the path then; None for a wheel.

        Raises:
            UserError: there is neither, or it cannot be imported.
        """
        checkout = self.find_checkout(given)
        if checkout is not None and str(checkout) not in sys.path[:1]:
            sys.path.insert(0, str(checkout))
        self.require()
        return checkout

    def require(self) -> ModuleType:
        """The imported suite.

        Raises:
            UserError: it is not there, or cannot be imported.
        """
        problem = import_problem(self.package)
        is_folder = problem is None and getattr(sys.modules[self.package], "__file__", None) is None  # of that name
        if is_folder or problem == f"No module named '{self.package}'":
            raise UserError(
                f"no {self.name} here: pip install {self.wheel}, or name a source checkout with --checkout or "
                f"{self.variable}",
                code="plugins.no-suite",
            )
        if problem is not None:
            raise UserError(
                f"{self.name} is here, but cannot be imported ({problem}); install what its requirements.txt lists",
                code="plugins.broken-suite",
            )
        return sys.modules[self.package]

    def run_tool(self, checkout: Path, command: str, arguments: Sequence[str]) -> None:
        """Run a tool of the checkout as if it had been called with these arguments.

        Raises:
            UserError: one that came from here, through whatever the suite makes of it.
        """
        file = checkout / self.tools[command]
        with errors_of_ours(), _argv([str(file), *arguments]):
            runpy.run_path(str(file), run_name="__main__")


@contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    previous = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = previous


@contextmanager
def errors_of_ours() -> Iterator[None]:
    """Give a :class:`UserError` that a suite wrapped in an exception of its own back as it was raised."""
    try:
        yield
    except Exception as error:
        cause: Optional[BaseException] = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from error


def option_value(arguments: Sequence[str], *names: str) -> Optional[str]:
    """The value of an option in arguments that are handed on: ``--name value`` or ``--name=value``, the last one.

    >>> option_value(["--config", "a.yml", "--iters=10"], "--iters")
    '10'
    """
    found = None
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in names:
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return found


def option_values(arguments: Sequence[str], *names: str) -> list[str]:
    """The values of an option that takes several: those up to the next option. Given twice, the last one counts.

    >>> option_values(["-o", "a=1", "b=2", "--eval"], "-o", "--opt")
    ['a=1', 'b=2']
    """
    found: list[str] = []
    is_inside = False
    for argument in arguments:
        if argument.startswith("-"):
            option, equals, value = argument.partition("=")
            is_inside = option in names
            found = ([value] if equals else []) if is_inside else found
        elif is_inside:
            found.append(argument)
    return found


def check_files(arguments: Sequence[str], options: Mapping[str, str]) -> None:
    """Check that the files that options name exist, since a suite answers with a traceback.

    Args:
        arguments: for the suite.
        options: {option, or options with ``|`` between them: what the file is, for the message}.

    Raises:
        UserError: one does not.
    """
    for names, what in options.items():
        path = option_value(arguments, *names.split("|"))
        if path is not None and not Path(path).exists():
            raise UserError(f"there is no {what} {path}", code="plugins.no-file", where=names.split("|")[0])

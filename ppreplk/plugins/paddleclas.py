"""Our networks inside PaddleClas.

With PaddleClas's wheel or a source checkout, :func:`register` makes them available to its ``build_model`` by name. In a
source checkout,

    python -m ppreplk.plugins.paddleclas train -c CONFIG -o Key.sub=value

registers them and hands over to PaddleClas's own engine; so do ``eval`` and ``export``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from paddle import nn

from ..models import build_model, list_models
from ..utils.command import Parser, add_config_arguments, run_command
from ..utils.errors import UserError

PACKAGES = ("ppcls", "paddleclas.ppcls")  # in a source checkout, in the wheel


def register() -> list[str]:
    """Add every network of ours to the installed PaddleClas's architectures.

    Returns:
        The packages that were found, as they are imported.

    Raises:
        UserError: there is no PaddleClas.
    """
    found = [package for package in PACKAGES if _exists(package)]
    if not found:
        raise UserError(
            "no PaddleClas here: pip install paddleclas, or run this in a PaddleClas checkout",
            code="plugins.no-paddleclas",
        )
    for package in found:
        arch = importlib.import_module(f"{package}.arch")
        for name in list_models():
            setattr(arch, name, _entry_point(name))
    return found


def _exists(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of the parent: not there, or the paddleclas.py of a checkout, which is no package
        return False


def _entry_point(name: str):
    def build(infer_add_softmax: bool = True, pretrained: bool = False, **kwargs) -> nn.Layer:
        """PaddleClas hands over its own keys of ``Arch`` too; its export reads ``infer_add_softmax`` itself."""
        if pretrained:
            raise UserError(
                "nothing is downloaded; use Global.pretrained_model", code="plugins.pretrained", where="Arch.pretrained"
            )
        return build_model(name, **kwargs)

    build.__name__ = name
    return build


def main(arguments: argparse.Namespace) -> None:
    """Run PaddleClas's engine on a configuration, our networks registered."""
    if "ppcls" not in register():
        raise UserError(
            "PaddleClas's engine is only in a source checkout: run this in its folder", code="plugins.no-checkout"
        )
    if not Path(arguments.config).is_file():
        raise UserError(f"no configuration file at {arguments.config}", code="plugins.no-config")
    config = _ppcls("utils.config").get_config(arguments.config, overrides=arguments.override, show=False)
    config.profiler_options = None  # its engine reads this, which its own tools set from their command line
    engine = _ppcls("engine.engine").Engine(config, mode=arguments.mode)
    getattr(engine, arguments.mode)()


def _ppcls(module: str) -> ModuleType:
    return importlib.import_module(f"ppcls.{module}")


if __name__ == "__main__":
    parser = Parser(prog="python -m ppreplk.plugins.paddleclas", description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=["train", "eval", "export"])
    add_config_arguments(parser)
    sys.exit(run_command(main, parser))

"""Our networks inside PaddleClas.

With PaddleClas's wheel or a source checkout, :func:`register` makes them available to its ``build_model`` by name. In a
source checkout,

    python -m ppreplk.plugins.paddleclas train -c CONFIG -o Key.sub=value

registers them and hands over to PaddleClas's own engine; so do ``eval`` and ``export``. Weights do not go through
PaddleClas, which takes those that match and leaves out the others without a word. They are read and checked here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from paddle import nn

from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..checkpoints.named import load_pretrained_into
from ..checkpoints.weights_folder import find_pretrained
from ..config import read_yaml
from ..data import DATASETS
from ..models import list_models
from ..models.arch import build_checked
from ..utils.command import Parser, add_config_arguments, run_command
from ..utils.errors import UserError, nearest
from ..utils.optional import import_optional, import_problem

logger = logging.getLogger(__name__)

PACKAGES = ("ppcls", "paddleclas.ppcls")  # in a source checkout, in the wheel
TRAIN, EVAL, EXPORT = MODES = ("train", "eval", "export")


def register(prepare: Optional[Callable[[nn.Layer], None]] = None) -> list[str]:
    """Add every network of ours to the installed PaddleClas's architectures.

    Args:
        prepare: called with each network of ours that PaddleClas builds, to load its weights for example.

    Returns:
        The packages that were found, as they are imported.

    Raises:
        UserError: there is no PaddleClas, or none that can be imported.
    """
    present = [package for package in PACKAGES if _exists(package)]
    if not present:
        raise UserError(
            "no PaddleClas here: pip install paddleclas, or run this in a PaddleClas checkout",
            code="plugins.no-paddleclas",
        )
    problems = {package: import_problem(f"{package}.arch") for package in present}
    found = [package for package, problem in problems.items() if problem is None]
    if not found:
        reasons = "; ".join(f"{package}: {problem}" for package, problem in problems.items())
        raise UserError(f"PaddleClas is here, but cannot be imported ({reasons})", code="plugins.broken-paddleclas")
    for package in found:
        arch = importlib.import_module(f"{package}.arch")
        for name in list_models():
            setattr(arch, name, _entry_point(name, prepare))
    return found


def _exists(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (Exception, SystemExit):  # the parent is missing, broken, or the paddleclas.py of a checkout, no package
        return False


def _entry_point(name: str, prepare: Optional[Callable[[nn.Layer], None]]) -> Callable[..., nn.Layer]:
    def build(infer_add_softmax: bool = True, pretrained: bool | str = False, **arguments: Any) -> nn.Layer:
        """PaddleClas hands over its own keys of ``Arch`` too; its export reads ``infer_add_softmax`` itself."""
        network = build_checked(name, arguments)
        if pretrained:
            try:
                load_pretrained_into(network, name, pretrained)
            except UserError as error:
                raise error.at("Arch.pretrained") from error
        if prepare is not None:
            prepare(network)
        return network

    build.__name__ = name
    return build


# ----------------------------------------------------------------------------------------------------------------------
# PaddleClas's engine


def main(arguments: argparse.Namespace) -> None:
    """Run PaddleClas's engine on a configuration, our networks registered.

    Raises:
        UserError: there is no checkout, or what the configuration names is not there or does not fit.
    """
    _check_checkout()
    config = _read(arguments.config, arguments.override)
    weights = _Weights(config, arguments.mode)
    register(weights.load)
    engine = _ppcls("engine.engine")
    _check_arch(config["Arch"])
    _check_data(config, arguments.mode)
    if config["Arch"]["name"] in list_models():
        weights.take_over()
    else:
        logger.warning(
            "%s is not one of ours: PaddleClas loads its weights, and does not say which of them do not fit",
            config["Arch"]["name"],
        )
    getattr(engine.Engine(config, mode=arguments.mode), arguments.mode)()


class _Weights:
    """The weights that ``Global`` of a configuration names."""

    def __init__(self, config: dict, mode: str):
        self.settings, self.arch = config["Global"], config["Arch"]
        self.mode = mode
        self.has_average = config.get("EMA") is not None
        self.pretrained: Optional[str] = None
        self.checkpoints: Optional[str] = None

    def take_over(self) -> None:
        """Let :meth:`load` read ``Global.pretrained_model``, in the place of PaddleClas.

        Where nothing is named there, those that ``Arch.pretrained`` names are read, and downloaded if need be.

        Raises:
            UserError: there are none to evaluate or export, or PaddleClas cannot resume what is to be resumed.
        """
        self.pretrained, self.checkpoints = (self._path(key) for key in ("pretrained_model", "checkpoints"))
        if self.mode == TRAIN and self.checkpoints is not None:
            _check_resumable(self.checkpoints)
        asked = self.arch.pop("pretrained", None)
        if asked and self.pretrained is None and self.checkpoints is None:
            self.pretrained = self._published(asked)
        if self.mode != TRAIN and self.pretrained is None:
            if self.checkpoints is None:
                raise UserError(
                    "Global.pretrained_model is not set: name the trained weights, for example "
                    "-o Global.pretrained_model=output/best_model",
                    code="checkpoints.none-named",
                )
            logger.info("taking the weights of Global.checkpoints, %s", self.checkpoints)
            self.pretrained = self.checkpoints
        self.settings["pretrained_model"] = None

    def _published(self, asked: Any) -> str:
        try:
            if asked is not True and not isinstance(asked, str):
                raise UserError(f"expected true, a name or a file, got {asked!r}", code="plugins.bad-path")
            return str(find_pretrained(self.arch["name"], asked))
        except UserError as error:
            raise error.at("Arch.pretrained") from error

    def _path(self, key: str) -> Optional[str]:
        value = self.settings.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(f"expected one file, got {value!r}", code="plugins.bad-path", where=f"Global.{key}")
        return value or None

    def load(self, network: nn.Layer) -> None:
        """Overwrite the parameters of ``network``; check those that PaddleClas is going to resume with.

        Raises:
            UserError: they cannot be read or do not fit.
        """
        if self.pretrained is not None:
            self._load(network, self.pretrained, may_replace_head=self.mode == TRAIN)
        if self.mode == TRAIN and self.checkpoints is not None:
            for suffix in [".pdparams", *([".pdema"] if self.has_average else [])]:
                self._load(network, self.checkpoints + suffix)

    @staticmethod
    def _load(network: nn.Layer, path: str, may_replace_head: bool = False) -> None:
        load_weights(network, load_checkpoint(path), path, may_replace_head)
        logger.info("%s: loaded; all %d arrays of the network have their value", path, len(network.state_dict()))


def _check_checkout() -> None:
    if not _exists("ppcls"):
        if not _exists("paddleclas.ppcls"):
            register()  # says that there is none at all
        raise UserError(
            "PaddleClas's engine is only in a source checkout: run this in its folder", code="plugins.no-checkout"
        )


def _ppcls(module: str) -> ModuleType:
    remedy = "install what its requirements.txt lists"
    return import_optional(
        f"ppcls.{module}", "this PaddleClas checkout cannot be imported", remedy, "plugins.broken-paddleclas"
    )


def _read(path: str, overrides: Sequence[str]) -> dict:
    """The configuration as PaddleClas reads it.

    Raises:
        UserError: it is no file in YAML, or has no sections ``Global`` and ``Arch``; or an override does not apply.
    """
    read_yaml(path)
    for text in overrides:
        if text.count("=") != 1:
            raise UserError(
                "PaddleClas expects one '=', for example Global.epochs=10",
                code="plugins.bad-override",
                where=f"-o {text}",
            )
    try:
        config = _ppcls("utils.config").get_config(path, overrides=overrides, show=False)
    except (AssertionError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"PaddleClas cannot read it, or apply {' '.join(overrides) or 'nothing'} to it ({reason})",
            code="plugins.bad-config",
            where=path,
        ) from error
    for section in ("Global", "Arch", "DataLoader"):
        if not isinstance(config.get(section), dict):
            raise UserError("this section is missing, or has no keys", code="plugins.bad-config", where=section)
    config.profiler_options = None
    return config


def _check_arch(arch: Mapping[str, Any]) -> None:
    """Look the name up where PaddleClas does.

    Raises:
        UserError: neither of ours nor of PaddleClas's has it.
    """
    name, ours = arch.get("name"), list_models()
    theirs = [known for known in dir(_ppcls("arch")) if known[:1].isupper()]
    if name not in ours and name not in theirs:
        known = nearest(str(name), [*ours, *theirs], [*ours, "those of PaddleClas"])
        raise UserError(f"unknown model {name!r}{known}", code="models.unknown-model", where="Arch.name")


def _check_data(config: Mapping[str, Any], mode: str) -> None:
    """Check the data sets that PaddleClas is going to open.

    Raises:
        UserError: one is of a kind that PaddleClas has not, or its files are not there.
    """
    evaluates = mode == EVAL or (mode == TRAIN and config["Global"].get("eval_during_train"))
    for split in [*(["Train"] if mode == TRAIN else []), *(["Eval"] if evaluates else [])]:
        where = f"DataLoader.{split}.dataset"
        section = config["DataLoader"].get(split)
        dataset = section.get("dataset") if isinstance(section, dict) else None
        if not isinstance(dataset, dict):
            if isinstance(section, dict) and split == "Eval":  # of retrieval: a query and a gallery
                continue
            raise UserError("missing; PaddleClas needs it here", code="plugins.no-data", where=where)
        _check_kind(dataset.get("name"), f"{where}.name")
        for key in ("image_root", "cls_label_path"):
            path = dataset.get(key)
            if isinstance(path, str) and not Path(path).exists():
                raise UserError(f"there is no {path} in {Path.cwd()}", code="plugins.no-data", where=f"{where}.{key}")


def _check_kind(name: Any, where: str) -> None:
    known = dir(_ppcls("data"))
    if name in known:
        return
    if name in [*DATASETS]:  # a file may hold what cannot be hashed
        raise UserError(
            f"{name} is ours, PaddleClas does not know it; use ImageNetDataset with a list file, or train with "
            "ppreplk train",
            code="plugins.own-dataset",
            where=where,
        )
    theirs = [dataset for dataset in known if dataset.endswith("Dataset")]
    raise UserError(f"unknown dataset {name!r}{nearest(str(name), theirs)}", code="plugins.no-data", where=where)


def _check_resumable(checkpoints: str) -> None:
    """Check that PaddleClas can go on with a training.

    Raises:
        UserError: files are missing, or they are of a training of ours.
    """
    for suffix in (".pdparams", ".pdopt", ".pdstates"):
        path = Path(checkpoints + suffix)
        if not path.is_file():
            raise UserError(
                f"no checkpoint of PaddleClas there: {path} is missing",
                code="plugins.not-resumable",
                where="Global.checkpoints",
            )
    if path.read_bytes()[:1] == b"{":
        raise UserError(
            f"{checkpoints} is a checkpoint of ppreplk train, which PaddleClas cannot resume; go on with ppreplk "
            "train, or start from its weights (Global.pretrained_model)",
            code="plugins.not-resumable",
            where="Global.checkpoints",
        )


if __name__ == "__main__":
    parser = Parser(prog="python -m ppreplk.plugins.paddleclas", description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=MODES)
    add_config_arguments(parser)
    sys.exit(run_command(main, parser))

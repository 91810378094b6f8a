"""What a configuration for PaddleSeg can have wrong, said in one line: PaddleSeg answers with a traceback."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import paddle

from ...config import read_yaml
from ...utils.errors import UserError, nearest
from ..suites import backbone_names

META = ("type",)
RENAMED_OPTIMIZERS = ("sgd", "adam", "SGD")  # PaddleSeg turns them into others
LABEL_SUFFIX = "_gtFine_labelTrainIds.png"
ADE_FOLDERS = {"train": "training", "val": "validation"}


def read_config(path: str, options: Optional[Sequence[str]] = None) -> Any:
    """The configuration as PaddleSeg reads it, with the files that it is based on.

    Args:
        path: of the YAML file.
        options: ``KEY.SUB=VALUE``, as of ``--opts``.

    Raises:
        UserError: no such file, no YAML, or PaddleSeg's own checks refuse it.
    """
    from paddleseg.cvlibs import Config

    if not path.endswith((".yml", ".yaml")):
        raise UserError("PaddleSeg expects a file ending in .yml or .yaml", code="plugins.bad-config", where=path)
    read_yaml(path)
    try:
        return Config(path, opts=list(options) if options else None)
    except (AssertionError, TypeError, ValueError, LookupError, AttributeError, RuntimeError, OSError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"PaddleSeg cannot use it ({reason})", code="plugins.bad-config", where=path) from error


def check_components(config: Mapping[str, Any]) -> None:
    """Look up every ``type`` and the keys beside it where PaddleSeg does.

    Raises:
        UserError: a name or a key is unknown; the nearest ones are listed.
    """
    from paddleseg.cvlibs import manager

    known = {
        name: component
        for part in ("MODELS", "BACKBONES", "DATASETS", "TRANSFORMS", "LOSSES", "OPTIMIZERS")
        for name, component in getattr(manager, part).components_dict.items()
    }
    for section in ("model", "train_dataset", "val_dataset", "optimizer", "loss"):
        _check_entry(config.get(section), section, known)
    schedule = config.get("lr_scheduler")
    if isinstance(schedule, Mapping) and not hasattr(paddle.optimizer.lr, str(schedule.get("type"))):
        schedules = [name for name in dir(paddle.optimizer.lr) if name[:1].isupper()]
        raise _unknown("schedule", schedule.get("type"), schedules, "lr_scheduler.type")


def _check_entry(entry: Any, where: str, known: Mapping[str, Callable]) -> None:
    if isinstance(entry, list):
        for index, each in enumerate(entry):
            _check_entry(each, f"{where}[{index}]", known)
    if not isinstance(entry, Mapping):
        return
    name = entry.get("type")
    if name is not None and name not in RENAMED_OPTIMIZERS:
        if name not in known:
            raise _unknown("type", name, known, f"{where}.type")
        parameters = inspect.signature(known[name]).parameters.values()
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
        names = [each.name for each in parameters]
        for key in entry:
            if not takes_all and key not in (*META, *names):
                raise UserError(
                    f"unknown key{nearest(str(key), names)}", code="plugins.unknown-key", where=f"{where}.{key}"
                )
    for key, value in entry.items():
        if not (key == "custom_cfg" or name in backbone_names()):
            _check_entry(value, f"{where}.{key}", known)


def _unknown(what: str, name: Any, known: Any, where: str) -> UserError:
    return UserError(f"unknown {what} {name!r}{nearest(str(name), known)}", code="plugins.unknown-type", where=where)


def check_data(config: Mapping[str, Any], sections: Sequence[str]) -> None:
    """Check that data sets are there. PaddleSeg would download ADE20K; nothing is downloaded here.

    Args:
        config: the configuration.
        sections: ``train_dataset``, ``val_dataset`` or both.

    Raises:
        UserError: a folder or list is missing.
    """
    for section in sections:
        entry = config.get(section)
        if not isinstance(entry, Mapping):
            raise UserError("missing; PaddleSeg needs it here", code="plugins.no-data", where=section)
        kind, root = entry.get("type"), entry.get("dataset_root")
        mode = str(entry.get("mode", "train")).lower()
        if root is None and kind in ("ADE20K", "Cityscapes", "Dataset"):
            raise UserError(
                "missing; name the folder of the data, nothing is downloaded",
                code="plugins.no-data",
                where=f"{section}.dataset_root",
            )
        if root is not None:
            _check_path(Path(root), f"{section}.dataset_root")
            for name in _folders(str(kind), mode):
                _check_path(Path(root) / name, f"{section}.dataset_root")
        if kind == "Dataset" and entry.get(f"{mode}_path") is not None:
            _check_path(Path(entry[f"{mode}_path"]), f"{section}.{mode}_path")
        if kind == "Cityscapes" and not any(Path(str(root)).glob(f"gtFine/{mode}/*/*{LABEL_SUFFIX}")):
            raise UserError(
                f"there are no gtFine/{mode}/*/*{LABEL_SUFFIX} in {root}; PaddleSeg's tools/data/convert_cityscapes.py "
                "writes them",
                code="plugins.no-data",
                where=f"{section}.dataset_root",
            )


def _folders(kind: str, mode: str) -> list[str]:
    if kind == "Cityscapes":
        return [f"leftImg8bit/{mode}", f"gtFine/{mode}"]
    if kind == "ADE20K" and mode in ADE_FOLDERS:
        return [f"images/{ADE_FOLDERS[mode]}", f"annotations/{ADE_FOLDERS[mode]}"]
    return []


def _check_path(path: Path, where: str) -> None:
    if not path.exists():
        raise UserError(f"there is no {path} in {Path.cwd()}", code="plugins.no-data", where=where)


def check_resumable(folder: Optional[str]) -> None:
    """Check that PaddleSeg can go on from a checkpoint: it takes the iteration from the folder's name.

    Raises:
        UserError: the folder has another name, or lacks a file.
    """
    if folder is None:
        return
    if not Path(folder).name.rpartition("_")[2].isdigit():
        raise UserError(
            f"expected a folder called iter_NUMBER, as PaddleSeg writes them, got {folder}",
            code="plugins.not-resumable",
            where="--resume_model",
        )
    for name in ("model.pdparams", "model.pdopt"):
        if not (Path(folder) / name).is_file():
            raise UserError(f"{Path(folder) / name} is missing", code="plugins.not-resumable", where="--resume_model")

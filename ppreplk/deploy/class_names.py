"""Class names from the files that PaddleClas's configurations name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..config import Config, PostProcessConfig
from ..data.lines import read_lines, split_first
from ..utils.errors import UserError

IMAGENET_NAMES = "ppcls/utils/imagenet1k_label_list.txt"


def names_of_file(config: Config) -> list[str] | None:
    """The names in the file that the configuration names; None where it names none.

    Raises:
        UserError: the file cannot be read, or has not as many names as the network has classes.
    """
    post = config.require("Infer").PostProcess
    names = read_class_names(post)
    if names is not None and len(names) != config.Arch.class_num:
        raise UserError(
            f"{post.class_id_map_file} has {len(names)} class names for {config.Arch.class_num} classes "
            "(Arch.class_num)",
            code="deploy.bad-class-names",
            where="Infer.PostProcess.class_id_map_file",
        )
    return names


def read_class_names(config: PostProcessConfig) -> list[str] | None:
    """Class names in order, from a file with one ``index name`` per line; None where no file is given.

    ``ppcls/...`` names a file inside the installed paddleclas, as it does in a PaddleClas checkout.

    Raises:
        UserError: the file cannot be read, or its lines are not ``index name`` with indices 0, 1, ...
    """
    if config.class_id_map_file is None:
        return None
    path = class_file(config.class_id_map_file)
    names: list[str] = []
    for number, text in read_lines(path, "Infer.PostProcess.class_id_map_file"):
        parts = split_first(text, config.delimiter)
        if parts is None or parts[0] != str(len(names)):
            raise UserError(
                f"expected '{len(names)}{config.delimiter or ' '}NAME', got {text!r}",
                code="deploy.bad-class-names",
                where=f"{path}, line {number}",
            )
        names.append(parts[1])
    return names


def class_file(name: str) -> Path:
    """The path of a file of class names. ``ppcls/...`` is looked for inside the installed paddleclas too."""
    path = Path(name)
    if not path.is_file() and path.parts[:1] == ("ppcls",):
        package = importlib.util.find_spec("paddleclas")
        if package is not None and package.origin is not None:
            path = Path(package.origin).parent / name
    return path

"""The recipes that come with the package: where they lie, what each is, and copies of them."""

from __future__ import annotations

import logging
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

from ..utils.atomic import creating, replacing
from ..utils.errors import UserError, nearest
from ..utils.tables import Table

PACKAGE = Path(__file__).parents[1]
SUFFIXES = (".yaml", ".yml")  # of our own recipes, and of those for PaddleSeg and PaddleDetection
FOLDER = "configs"
SCHEMA = re.compile(r"\$schema=(\S+)")

logger = logging.getLogger(__name__)


def recipes_folder() -> Path:
    """``configs`` inside an installed package; beside the package in a clone and its editable installation.

    Raises:
        UserError: there is neither.
    """
    for folder in (PACKAGE / FOLDER, PACKAGE.parent / FOLDER):
        if (folder / "schema.json").is_file():
            return folder
    raise UserError(f"the recipes are missing beside {PACKAGE}; install ppreplk again", code="config.no-recipes")


def recipes() -> dict[str, Path]:
    """{name: file} of all recipes. A name is the path below ``configs`` without suffix, such as ``digits``.

    >>> recipes()["study/table2_mbv2_3x3"].name
    'table2_mbv2_3x3.yaml'
    """
    folder = recipes_folder()
    files = [path for path in folder.rglob("*") if path.suffix in SUFFIXES]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(files)}


def recipe_table() -> Table:
    """Every recipe with the first line of its file, which says what it is."""
    rows = [[name, _first_line(path)] for name, path in recipes().items()]
    return Table("ppreplk configs copy NAME brings a recipe here", ["name", "what it is"], rows)


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next(lines).lstrip("#").strip()


def copy_recipe(name: str, target: str | Path = FOLDER, force: bool = False) -> list[Path]:
    """Copy a recipe, and into a folder the schema with it, from which editors complete.

    Args:
        name: as :func:`recipes` has it, with or without suffix.
        target: a folder, in which the recipe has the place that it has in ``configs``, or a ``.yaml`` or ``.yml`` file.
        force: replace files that are there.

    Returns:
        The files that were written. One that was there with the same content is not among them.

    Raises:
        UserError: there is no such recipe, another file is in the place, or it cannot be written. Nothing is written
            then.
    """
    known = recipes()
    path = known.get(re.sub(r"\.ya?ml$", "", name))
    if path is None:
        raise UserError(f"there is no recipe {name!r}{nearest(name, known)}", code="config.unknown-recipe")
    target = Path(target)
    if target.suffix in SUFFIXES and not os.path.isdir(target):
        return _copy({target: path}, force)
    return _copy_into(target, [path], force)


def copy_all_recipes(folder: str | Path = FOLDER, force: bool = False) -> list[Path]:
    """Copy every recipe and the schema into a folder, see :func:`copy_recipe`."""
    return _copy_into(Path(folder), list(recipes().values()), force)


def _copy_into(folder: Path, paths: list[Path], force: bool) -> list[Path]:
    """Copy recipes to their places in a folder. A schema of another version that is there stays, unless forced."""
    source = recipes_folder()
    copies = {folder / path.relative_to(source): path for path in paths}
    if any(SCHEMA.search(path.read_text(encoding="utf-8")) for path in paths):
        schema = source / "schema.json"
        there = _content(folder / schema.name)
        if force or there is None:
            copies[folder / schema.name] = schema
        elif there != schema.read_bytes():
            logger.warning("%s is that of another version and stays; --force replaces it", folder / schema.name)
    return _copy(copies, force)


def _copy(copies: dict[Path, Path], force: bool) -> list[Path]:
    """Copy {target: source}, all or nothing, without what is there already."""
    new = {target: source for target, source in copies.items() if _content(target) != source.read_bytes()}
    there = [str(target) for target in new if os.path.lexists(target)]
    if there and not force:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        text = f"{there[0]}{others} would be overwritten; --force does so, or name another place"
        raise UserError(text, code="config.recipe-exists")
    with ExitStack() as stack:
        for folder in sorted({target.parent for target in new}):
            stack.enter_context(creating(folder))
        for partial, source in zip(stack.enter_context(replacing(*new)), new.values()):
            partial.write_bytes(source.read_bytes())
    return list(new)


def _content(target: Path) -> Optional[bytes]:
    """What a file to write holds already; None where there is none.

    Raises:
        UserError: a folder is in its place, or it cannot be read.
    """
    try:
        return target.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        text = f"{target} is a folder, in the place of a file to write; remove it"
        raise UserError(text, code="config.recipe-exists") from error
    except OSError as error:
        text = f"cannot read {target} ({error.strerror or error})"
        raise UserError(text, code="config.recipe-exists") from error

"""What training scripts put around a table of weights: keys, averaged weights beside, prefixes of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ..utils.errors import UserError
from .arrays import StoredArray
from .unpickle import shown

WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "params",
    "net",
    "network",
    "module",
    "weights",
    "checkpoint",
)
AVERAGED = (
    *("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema"),
    *("ema", "ema_model", "ema_params", "ema_weights"),
)
FLAT_AVERAGED = ("ema_", "ema.", "model_ema.")  # before the names of averaged weights that lie among the others
NO_WEIGHTS = ("optim", "sched", "lr_sched", "scaler")  # keys of other tables begin with these
COUNTERS = ("n_averaged", "num_averaged", "num_updates", "steps", "decay")  # of the averaging, beside its weights
MAX_DEPTH = 8  # wrappers in wrappers
MAX_SEGMENTS = 8  # of a prefix

Table = Mapping[Any, Any]


class Unwrapped(NamedTuple):
    """A table of weights, whether other, averaged ones lie beside it, and a remark for the user ("" for none)."""

    table: Any
    has_averaged: bool
    remark: str = ""


def unwrapped(content: Any, ema: bool) -> Unwrapped:
    """The table of weights inside what training scripts put around it.

    Args:
        content: the content of a checkpoint file; weights are a :class:`StoredArray`.
        ema: take the averaged weights instead of the last ones.

    Raises:
        UserError: averaged weights are asked for and not there, or more than one table could be meant.
    """
    last, averaged = _last_and_averaged(content)
    meta = _meta(content)
    if averaged is not None and "mmengine_version" in meta:
        # its EMAHook exchanges the two when it saves, so that state_dict is the one to use
        return Unwrapped(last, False, "its state_dict holds the averaged weights, as mmengine saves them")
    if averaged is not None and "mmcv_version" in meta:
        exchanged = "mmcv exchanges last and averaged weights after each epoch: a file saved then has the averaged ones"
        if ema:
            raise UserError(
                f"{exchanged} under the plain names; read it without asking for averaged weights",
                code="checkpoints.no-averaged",
            )
        return Unwrapped(last, False, f"{exchanged} under the plain names, which are taken")
    if ema:
        if averaged is None:
            raise UserError(
                f"has no averaged weights: none of the keys {', '.join(AVERAGED)}, and no names with "
                f"{' or '.join(FLAT_AVERAGED)} before those of the others",
                code="checkpoints.no-averaged",
            )
        return Unwrapped(averaged, True)
    if averaged is not None and not _arrays_of(last):
        return Unwrapped(averaged, False, "holds averaged weights only, which are taken")
    return Unwrapped(last, averaged is not None)


def _meta(content: Any) -> Table:
    """What OpenMMLab's libraries say about a file of theirs."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _last_and_averaged(content: Any) -> tuple[Any, Optional[Table]]:
    """The last and the averaged weights, None where there are none."""
    levels = _levels(content)
    last = levels[-1]
    for level in levels:
        beside = _first(level, AVERAGED)
        if beside is not None:
            averaged = _levels(beside)[-1]
            return _of_parallel(last), {name: value for name, value in averaged.items() if name not in COUNTERS}
    return _split(_of_parallel(last)) if isinstance(last, Mapping) else (last, None)


def _levels(content: Any) -> list[Any]:
    """The content, the table under a wrapper in it, and so on."""
    levels = [content]
    while len(levels) < MAX_DEPTH and isinstance(content, Mapping):
        content = _first(content, WRAPPERS) or _only_table(content)
        if content is None:
            break
        levels.append(content)
    return levels


def _first(content: Any, keys: Sequence[str]) -> Optional[Table]:
    """The first table, not an empty one, under one of the keys."""
    if not isinstance(content, Mapping):
        return None
    return next((content[key] for key in keys if isinstance(content.get(key), Mapping) and content[key]), None)


def _only_table(content: Table) -> Optional[Table]:
    """The table of weights under a key of no known meaning, if it is the only one."""
    if _arrays_of(content):
        return None
    tables = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and key not in AVERAGED and not key.startswith(NO_WEIGHTS)
        if isinstance(value, Mapping) and value and len(_arrays_of(value)) == len(value)
    }
    if len(tables) > 1:
        names = ", ".join(repr(shown(key)) for key in list(tables)[:4])
        raise UserError(
            f"holds {len(tables)} tables of weights under keys of no known meaning ({names}); save the one that is "
            "meant in a file of its own",
            code="checkpoints.no-weights",
        )
    return next(iter(tables.values()), None)


def _arrays_of(table: Any) -> list[Any]:
    """Names of the arrays in a table."""
    return [n for n, value in table.items() if isinstance(value, StoredArray)] if isinstance(table, Mapping) else []


def _of_parallel(table: Any) -> Any:
    """Without the counter that PyTorch's ``AveragedModel`` puts beside ``module.``."""
    if isinstance(table, Mapping) and "n_averaged" in table:
        others = {name: value for name, value in table.items() if name != "n_averaged"}
        if all(isinstance(name, str) and name.startswith("module.") for name in others):
            return others
    return table


def _split(table: Table) -> tuple[Table, Optional[Table]]:
    """The last and the averaged weights where both lie in one table.

    Averaged ones have ``ema_`` before the name, in which dots may have become underscores or been left out. What is
    not averaged, such as the statistics of normalizations, is the same for both.
    """
    names = [name for name in table if isinstance(name, str)]
    for prefix in FLAT_AVERAGED:
        marked = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
        last = {name: value for name, value in table.items() if name not in marked}
        plain: dict[str, list[str]] = {}
        for name in names:
            if name in last:
                plain.setdefault(_bare(name), []).append(name)
        averaged = {}
        for name, rest in marked.items():
            candidates = [rest] if rest in last else plain.get(_bare(rest), [])
            if len(candidates) == 1:
                averaged[candidates[0]] = table[name]
        if marked and not last:
            return last, {rest: table[name] for name, rest in marked.items()}
        if marked and len(averaged) == len(marked):
            return last, {**last, **averaged}
    return table, None


def _bare(name: str) -> str:
    return re.sub(r"[._]", "", name)


def common_prefix(names: Collection[str], is_known: Callable[[list[str]], bool]) -> str:
    """The prefix that stands before all names and must go for what remains to be known, "" where there is none.

    DataParallel puts ``module.`` or ``_layers.`` before each name, ``torch.compile`` ``_orig_mod.``, a training
    script the name of its attribute, ``model.`` or ``net.``; they may follow one another.

    Args:
        names: all names of a table.
        is_known: whether names, without what has been taken off so far, are of a known layout.

    >>> common_prefix(["module.net.stem.bias", "module.net.head.bias"], lambda names: "head.bias" in names)
    'module.net.'
    """
    prefix = ""
    for _ in range(MAX_SEGMENTS + 1):
        rest = [name[len(prefix) :] for name in names]
        if is_known(rest):
            return prefix
        segments = {name.partition(".")[0] for name in rest}
        if len(segments) != 1 or not all("." in name for name in rest):
            return ""
        prefix += f"{segments.pop()}."
    return ""

"""A folder of weights as the Hugging Face hub has them: weights, configuration, model card."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ..models.registry import Recognised, recognise
from ..utils.atomic import make_folder, replacing
from ..utils.errors import UserError
from ..utils.optional import import_optional
from ..utils.version import __version__
from .convert import check_complete, count_parameters, load_checkpoint, write_float32
from .files import find_checkpoint
from .manifest import published_files
from .trained_classes import trained_classes, trained_metric

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, CARD = FILES = ("model.safetensors", "config.json", "README.md")
PASSPORT = "export.json"  # beside an exported program, as deploy/ writes it
LIBRARY = "library_name: ppreplk"  # in the head of a card
MAX_LABELS = 50_000


def prepare_folder(
    folder: str | Path, weights: str | Path, export_dir: str | Path | None = None, licence: Optional[str] = None
) -> Path:
    """Write weights, configuration and model card into a folder. Nothing is uploaded.

    Args:
        folder: is made unless it exists. What an earlier call wrote there is replaced.
        weights: any file that :func:`ppreplk.weights.load_checkpoint` reads, of a network that can be recognised.
        export_dir: an exported program of these weights. The card says what its passport, ``export.json``, says.
        licence: of the weights, as the hub calls it; the card has none unless it is given.

    Raises:
        UserError: the weights cannot be read or are incomplete, there is no passport, or the folder cannot be written
            or has a README.md of something else.
    """
    folder = Path(folder)
    _check_replaceable(folder / CARD)
    state = load_checkpoint(weights)
    network = recognise(state, str(weights))
    check_complete(network, state, str(weights))
    passport = read_passport(Path(export_dir), network, weights) if export_dir is not None else {}
    names, evaluation = trained_classes(weights), trained_metric(weights) or passport.get("evaluation")
    make_folder(folder)
    config = configuration(network, weights, names, passport)
    write_float32(state, folder / WEIGHTS)
    card = model_card(network, count_parameters(state), passport, licence, names, evaluation, folder.resolve().name)
    for name, text in ((CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n"), (CARD, card)):
        with replacing(folder / name) as [partial]:
            partial.write_text(text, encoding="utf-8")
    return folder


def _check_replaceable(card: Path) -> None:
    """Refuse to write over a README.md that is no card of ours: that of a project, for example."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not there; or writing it says what is wrong
        return
    if LIBRARY not in text:
        raise UserError(
            "is no model card of ppreplk and would be lost; name another folder",
            code="checkpoints.not-a-card",
            where=str(card),
        )


def read_passport(export_dir: Path, network: Recognised, weights: str | Path) -> dict[str, Any]:
    """The passport of a program that was exported from ``weights`` of ``network``.

    Raises:
        UserError: there is none, it cannot be read, or the program is of other weights.
    """
    path = export_dir / PASSPORT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"no passport of an exported program ({reason})", code="checkpoints.no-passport", where=str(path)
        ) from error
    if not isinstance(content, dict):
        raise UserError("no passport of an exported program", code="checkpoints.no-passport", where=str(path))
    if content.get("classes") != network.class_num:
        raise UserError(
            f"a program with {content.get('classes')} classes, where the weights are of {network}",
            code="checkpoints.no-passport",
            where=str(path),
        )
    _check_same_weights(str(content.get("weights")), weights, path)
    return content


def _check_same_weights(exported: str, weights: str | Path, passport: Path) -> None:
    """Refuse a passport of other weights. Where it was written elsewhere, its path says nothing here."""
    try:
        same = find_checkpoint(exported).samefile(find_checkpoint(weights))
    except UserError:
        logger.warning(
            "%s: of a program made from %s, which is not here; make sure that is %s", passport, exported, weights
        )
        return
    if not same:
        raise UserError(
            f"of a program that was made from {exported}, not from {weights}",
            code="checkpoints.no-passport",
            where=str(passport),
        )


def configuration(
    network: Recognised, weights: str | Path, names: Optional[list[str]], passport: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``config.json`` says: how the network is built, and what it expects."""
    published = next((each for each in published_files() if each.file == Path(weights).name), None)
    content: dict[str, Any] = {
        "library_name": "ppreplk",
        "architecture": network.name,
        "form": network.form,
        "arguments": {key: _plain(value) for key, value in network.arguments.items()},
    }
    if published is not None:
        content["preprocessing"] = dict(published.preprocessing)
    if passport.get("preprocessing"):
        content["transforms"] = passport["preprocessing"]
    if names is not None and len(names) <= MAX_LABELS:
        content["id2label"] = {str(index): name for index, name in enumerate(names)}
    return content


def model_card(
    network: Recognised,
    parameters: int,
    passport: Mapping[str, Any],
    licence: Optional[str],
    names: Optional[list[str]],
    evaluation: Optional[Mapping[str, Any]],
    title: str,
) -> str:
    """The card: a head of metadata for the hub, then what the network is and how it is loaded.

    What nobody has measured or said is not on it.
    """
    is_classifier = network.class_num is not None
    head = [
        "---",
        LIBRARY,
        *([f"license: {json.dumps(licence)}"] if licence else []),
        *(["pipeline_tag: image-classification"] if is_classifier else []),
        "tags:",
        *(f"- {tag}" for tag in ("paddlepaddle", "replknet", "large-kernel")),
        *(["- image-classification"] if is_classifier else []),
        "---",
    ]
    classes = f"{network.class_num} classes" if is_classifier else "a backbone without a head"
    listed = f": {', '.join(names)}" if names and len(names) <= 20 else ""
    body = [
        f"# {title}",
        "",
        f"{network.name}, {classes}{listed}. {parameters:,} parameters, in {network.form} form, float32, under "
        f"the names of ppreplk {__version__}. Architecture: [RepLKNet](https://arxiv.org/abs/2203.06717).",
        "",
        "```python",
        "import ppreplk",
        "from ppreplk.weights import load_checkpoint, load_weights",
        "",
        *_loading(network),
        "```",
        *_said_by(passport, evaluation),
    ]
    return "\n".join([*head, "", *body]) + "\n"


def upload(folder: str | Path, repository: str) -> str:
    """Upload a prepared folder to the Hugging Face hub, as the user whom ``huggingface_hub`` knows; the address.

    Raises:
        UserError: the folder is not prepared, ``huggingface_hub`` is missing, or the hub refuses.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"has no {' and no '.join(missing)}; prepare it with --weights",
            code="checkpoints.not-prepared",
            where=str(folder),
        )
    hub = import_optional(
        "huggingface_hub",
        "an upload needs huggingface_hub",
        'pip install "ppreplk[hub]", or upload the folder in a browser',
        "checkpoints.no-hub",
    )
    try:
        hub.create_repo(repository, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=list(FILES), commit_message="Weights of ppreplk"
        )
    except Exception as error:  # the library has errors of its own and those of two others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the hub refuses ({reason})", code="checkpoints.not-uploaded", where=repository) from error
    return str(getattr(commit, "commit_url", commit))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _loading(network: Recognised) -> list[str]:
    """Python that builds the network and loads the weights."""
    if network.variant is None:
        arguments = {key: _plain(value) for key, value in network.arguments.items()}
        built = f"ppreplk.models.{network.architecture.network.__name__}(**{arguments!r})"
    else:
        shown: dict[str, Any] = {
            key: network.arguments[key] for key in ("class_num", "out_indices") if key in network.arguments
        }
        if network.form == "merged":
            shown["merged"] = True
        arguments_text = "".join(f", {key}={value!r}" for key, value in shown.items())
        built = f'ppreplk.build_model("{network.variant}"{arguments_text})'
    return [f"model = {built}", f'load_weights(model, load_checkpoint("{WEIGHTS}"), "{WEIGHTS}")', "model.eval()"]


def _said_by(passport: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    """Sections of the card: how good the network is, and what was exported from it and how far that is from it."""
    lines: list[str] = []
    if evaluation:
        lines += [
            "",
            f"Accuracy in the evaluation of its training, after epoch {evaluation.get('epoch')}: "
            f"{_short(evaluation.get('metric'))}.",
        ]
    formats, checks = passport.get("formats"), passport.get("verification")
    if formats:
        lines += ["", "## Exported", "", "| format | files |", "|-|-|"]
        lines += [f"| {name} | {', '.join(files)} |" for name, files in formats.items()]
    if checks:
        lines += [
            "",
            "Largest difference from the trained network:",
            "",
            "| runtime | difference | largest logit |",
            "|-|-|-|",
        ]
        lines += [
            "| "
            + " | ".join(_short(each.get(key)) for key in ("runtime", "largest_difference", "largest_logit"))
            + " |"
            for each in checks
        ]
    if made := passport.get("made"):
        lines += [
            "",
            "Made with " + ", ".join(f"{name} {version}" for name, version in made.items() if name != "at") + ".",
        ]
    return lines

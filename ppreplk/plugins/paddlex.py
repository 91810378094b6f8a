"""Our exported programs inside PaddleX.

:func:`register` makes the names of our networks known to PaddleX; ``paddlex.create_model`` and its pipelines then read
what ``ppreplk export`` wrote. From a command line,

    python -m ppreplk.plugins.paddlex pipeline MODEL_DIR FILE.yaml
    python -m ppreplk.plugins.paddlex --pipeline FILE.yaml --input IMAGE
    python -m ppreplk.plugins.paddlex --serve --pipeline FILE.yaml

the first writes a pipeline for a program, and whatever else there is goes to PaddleX's own command, our names
registered. What PaddleX 3.7 does not do right for classifiers is done here: each result has the classes of its own
image, and its server answers. That server listens on 127.0.0.1 unless told otherwise, and draws the classes into an
image, with a font that PaddleX downloads, only where it is asked to.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import yaml

from ..deploy.inference_yml import read_description
from ..deploy.programs import PROGRAMS, load_operators, program_files
from ..models.registry import architectures, list_models
from ..utils.atomic import check_output, replacing
from ..utils.command import Parser, path, positive, run_command
from ..utils.errors import UserError
from ..utils.optional import import_optional

PIPELINE = "pipeline"
LOOPBACK = "127.0.0.1"
SERVING = "Serving"  # the section of a pipeline's file


def register(*names: str) -> list[str]:
    """Make networks of ours known to PaddleX, for its engines ``paddle_static`` and ``onnxruntime``.

    Args:
        names: what ``Global.model_name`` in ``inference.yml`` may say, beside the names of all our networks.

    Returns:
        The names that PaddleX knows now and did not know before. A second call adds none.

    Raises:
        UserError: PaddleX is missing or broken, or of a version that registers otherwise.
    """
    bindings, classification = (
        import_optional(
            f"paddlex.inference.models.{module}",
            "PaddleX 3.7 is needed here",
            'run: pip install "paddlex[cv,serving]>=3.7", in an environment of its own',
            "plugins.no-paddlex",
        )
        for module in ("bindings", "image_classification")
    )
    wanted = dict.fromkeys([*list_models(), *(architecture.name for architecture in architectures()), *names])
    new = [name for name in wanted if bindings.try_get_supported_engines(name) is None]
    if new:
        bindings.register_predictor_binding_map(
            _make_classifier(classification.ClasPredictor),
            {
                "paddle_static": [bindings.create_binding_registration(new, runner_builder=_build_runner)],
                "onnxruntime": new,
            },
        )
    return new


def _make_classifier(base: Any) -> Any:
    """PaddleX's classifier with results that it can split: it splits lists by image, and no arrays."""

    class Classifier(base):
        def process(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
            return as_lists(super().process(*arguments, **keywords))

    return Classifier


def as_lists(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results of a batch, as PaddleX makes them, with lists of plain numbers in place of arrays. Images stay arrays.

    >>> as_lists({"class_ids": np.array([[2, 0]]), "scores": [np.array([0.75, 0.25])], "input_img": []})
    {'class_ids': [[2, 0]], 'scores': [[0.75, 0.25]], 'input_img': []}
    """
    plain: dict[str, Any] = {}
    for key, value in results.items():
        if key == "input_img":
            plain[key] = value
        elif isinstance(value, np.ndarray):
            plain[key] = value.tolist()
        elif isinstance(value, list):
            plain[key] = [each.tolist() if isinstance(each, np.ndarray) else each for each in value]
        else:
            plain[key] = value
    return plain


def _build_runner(*, model_dir: Optional[Path], default_builder: Callable[..., Any], **given: Any) -> Any:
    """What runs a program in PaddleX, after the operators of ours that it may hold have been loaded."""
    program = Path(model_dir or ".") / f"{PROGRAMS['fp32']}.json"
    if program.is_file():
        load_operators(program, "cpu" if given.get("engine_config", {}).get("device_type") in (None, "cpu") else "gpu")
    return default_builder(model_dir=model_dir, **given)


# ----------------------------------------------------------------------------------------------------------------------
# The command


def write_pipeline(model_dir: str, output: str, batch_size: int = 4) -> None:
    """Write a pipeline of PaddleX that classifies images with a program.

    Args:
        model_dir: the folder that ``ppreplk export`` wrote.
        output: the file, ``.yaml`` or ``.yml``.
        batch_size: images that PaddleX computes together.

    Raises:
        UserError: there is no program, or the file has another suffix or cannot be written.
    """
    file = check_output(output, "pipeline of PaddleX", (".yaml", ".yml"))  # PaddleX looks others up among its own
    program_files(model_dir)
    description = read_description(model_dir)
    if description.model_name is None:
        raise UserError("names no network in Global.model_name", code="plugins.no-program", where=model_dir)
    model = {
        "module_name": "image_classification",
        "model_name": description.model_name,
        "model_dir": str(Path(model_dir).absolute()),
        "batch_size": batch_size,
        "topk": description.topk,
    }
    content = {
        "pipeline_name": "image_classification",
        "SubModules": {"ImageClassification": model},
        SERVING: {"visualize": False},
    }
    with replacing(file) as [partial]:
        partial.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def hand_over(arguments: Sequence[str]) -> None:
    """Run PaddleX's command with our names registered.

    Args:
        arguments: of the ``paddlex`` command.

    Raises:
        UserError: see :func:`register`.
    """
    register()
    cli: Any = importlib.import_module("paddlex.paddlex_cli")
    cli.load_pipeline_config = _without_drawing(cli.load_pipeline_config)
    given = [*arguments]
    if "--serve" in given and not any(each.split("=")[0] == "--host" for each in given):
        given += ["--host", LOOPBACK]
    sys.argv = ["paddlex", *given]
    importlib.import_module("paddlex.__main__").console_entry()


def _without_drawing(load: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """What reads a pipeline, with drawing off where the file does not say."""

    def load_quietly(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        content = load(*arguments, **keywords)
        return {**content, SERVING: {"visualize": False, **(content.get(SERVING) or {})}}

    return load_quietly


def main(arguments: Sequence[str]) -> None:
    """Run the command line, or hand it over.

    Args:
        arguments: behind ``python -m ppreplk.plugins.paddlex``.
    """
    if arguments[:1] == [PIPELINE]:
        asked = pipeline_parser().parse_args(arguments[1:])
        write_pipeline(asked.model_dir, asked.output, asked.batch_size)
    elif [*arguments] in ([], ["-h"], ["--help"]):
        make_parser().print_help()
    else:
        hand_over(arguments)


def pipeline_parser() -> Parser:
    """Of ``pipeline``."""
    parser = Parser(
        prog=f"python -m ppreplk.plugins.paddlex {PIPELINE}",
        description="Write a pipeline of PaddleX for an exported program.",
    )
    parser.add_argument("model_dir", type=path, help="folder with an exported program")
    parser.add_argument("output", type=path, help=".yaml file to write")
    parser.add_argument("--batch-size", type=positive, default=4, help="images that are computed together")
    return parser


def make_parser() -> Parser:
    """Of the whole command, for its help: PaddleX reads its own arguments."""
    return Parser(
        prog="python -m ppreplk.plugins.paddlex",
        usage="%(prog)s pipeline MODEL_DIR FILE.yaml | ARGUMENTS OF paddlex",
        description="PaddleX's command with our networks registered: --pipeline FILE.yaml --input IMAGE, or --serve "
        "--pipeline FILE.yaml. 'pipeline' writes such a file for an exported program.",
        add_help=False,
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main(sys.argv[1:]), make_parser(), []))

"""One reader of exported files in a process of its own, which may be of another environment.

:mod:`ppreplk.benchmark.readers` runs ``python -m ppreplk.benchmark.reader_process JOB.json``. What it finds it writes
to the job's ``output``. Readers that take arrays are given what :class:`ppreplk.Predictor` would give to its program;
the others are given paths of images, and prepare them as ``inference.yml`` says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 5  # images before the clock starts
Predict = Callable[[int], np.ndarray]  # the number of an image -> probabilities (class_num,)


@dataclass
class Job:
    """What a reader is asked for.

    Args:
        reader: a key of ``READERS``.
        file: the program, or a folder with one.
        images: paths.
        arrays: ``.npy`` file of the same images as the program takes them, (N, C, H, W) float32.
        classes: their number.
        threads: math threads.
        output: ``.npz`` file to write, see :class:`Answers`.
    """

    reader: str
    file: str
    images: list[str]
    arrays: str
    classes: int
    threads: int
    output: str

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass
class Answers:
    """What a reader says.

    Args:
        probabilities: (N, class_num).
        seconds: that each image took, (N,); empty where they are unknown.
    """

    probabilities: np.ndarray
    seconds: np.ndarray

    def save(self, path: str) -> None:
        np.savez(path, probabilities=self.probabilities, seconds=self.seconds)


def load_answers(path: Path) -> Answers:
    with np.load(path) as content:
        return Answers(content["probabilities"], content["seconds"])


def ask_all(predict: Predict, count: int) -> Answers:
    """Ask a reader for ``count`` images, one at a time."""
    for number in range(min(WARM_UP, count)):
        predict(number)
    found, seconds = [], []
    for number in range(count):
        start = time.perf_counter()
        found.append(predict(number))
        seconds.append(time.perf_counter() - start)
    return Answers(np.stack(found).astype(np.float64), np.asarray(seconds))


def in_order(class_ids: Sequence[int], scores: Sequence[float], classes: int) -> np.ndarray:
    """Probabilities by class, from ranked ones.

    >>> in_order([2, 0], [0.75, 0.25], 3)
    array([0.25, 0.  , 0.75])
    """
    found = np.zeros(classes)
    found[list(class_ids)] = list(scores)
    return found


def _array_reader(package: str) -> Callable[[Job], Predict]:
    def load(job: Job) -> Predict:
        from ..deploy.runtime_process import LOADERS

        run = LOADERS[package](job.file, job.threads)
        arrays = np.load(job.arrays)
        return lambda number: run(arrays[number : number + 1])[0]

    return load


def _paddleclas(job: Job) -> Predict:
    """The predictor of PaddleClas, fed as its own command feeds it."""
    import cv2
    from paddleclas.deploy.python.predict_cls import ClsPredictor
    from paddleclas.deploy.utils.config import get_config

    settings = {
        "Global.inference_model_dir": job.file,
        "Global.cpu_num_threads": job.threads,
        "PostProcess.main_indicator": "Topk",
    }
    given = [f"{key}={value}" for key, value in settings.items()]
    predictor = ClsPredictor(get_config(str(Path(job.file) / "inference.yml"), overrides=given, show=False))

    def predict(number: int) -> np.ndarray:
        image = cv2.imread(job.images[number])[:, :, ::-1]
        (result,) = predictor.predict([image])
        return in_order(result["class_ids"], result["scores"], job.classes)

    return predict


def _paddlex(job: Job) -> Predict:
    import paddlex

    from ..deploy.inference_yml import read_description
    from ..plugins.paddlex import register

    name = read_description(job.file).model_name
    register()
    settings: dict[str, Any] = {"model_dir": job.file, "device": "cpu", "engine_config": {"cpu_threads": job.threads}}
    model = paddlex.create_model(name, **settings)

    def predict(number: int) -> np.ndarray:
        (result,) = model.predict(job.images[number], topk=job.classes)
        return in_order(result["class_ids"], result["scores"], job.classes)

    return predict


READERS: dict[str, Callable[[Job], Predict]] = {
    "onnxruntime": _array_reader("onnxruntime"),
    "openvino": _array_reader("openvino"),
    "paddleclas": _paddleclas,
    "paddlex": _paddlex,
}


def main(path: str) -> None:
    job = Job(**json.loads(Path(path).read_text(encoding="utf-8")))
    ask_all(READERS[job.reader](job), len(job.images)).save(job.output)


if __name__ == "__main__":
    main(sys.argv[1])

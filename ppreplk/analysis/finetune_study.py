"""Fine-tuning on few images: which rates, which averaging, and how it compares with a ResNet18 of paddleclas.

Networks are trained on the digits zero to four. From there, or from scratch, they learn other digits, faces, and
textures, of which they see a few images per class. Every finished run is kept, so that a study that was stopped goes
on.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import load_config, override, read_yaml
from ..training import train
from ..utils.atomic import make_folder, replacing
from ..utils.tables import Table, write_table
from .finetune_sets import SETS, TRAIN, VAL, source_digits, write_split
from .kept_runs import RESULTS, Result, finish, keep, read_kept
from .small_study import only_warnings

NETWORKS = OURS, BASELINE = "RepLKNet13T", "ResNet18"
SOURCE = "source"  # the task before the others
SCRATCH = "scratch"
SHOWN = 10  # images of each class
SOURCE_RATES, SOURCE_EPOCHS, SOURCE_BATCH = {OURS: 4e-3, BASELINE: 1e-3}, {OURS: 40, BASELINE: 12}, 32
EPOCHS, BATCH = 30, 10
DIGITS = "digits"  # the task on which the networks are compared
# An epoch of ResNet18 takes over three times as long: 100 epochs of ours are a smaller budget than 30 of it.
COMPARED_EPOCHS = {OURS: 100, BASELINE: 30}
COMPARED_RATES = {OURS: (1.5e-3, 3e-3, 6e-3), BASELINE: (4e-4, 1.6e-3, 6.4e-3)}
NO_DECAY = 1.0


class Way(NamedTuple):
    """How a network is fine-tuned.

    Args:
        network: ``Arch.name``.
        start: :data:`SCRATCH`, or :data:`SOURCE` for the weights of that task.
        rate: peak learning rate.
        epochs: of the training.
        factor: ``head_lr_mult``.
        decay: ``layer_decay``.
        ema: decay of the averaged weights; None for none.
    """

    network: str
    start: str
    rate: float
    epochs: int
    factor: int = 1
    decay: float = NO_DECAY
    ema: float | None = None


WAYS = [
    *(Way(OURS, SOURCE, 4e-4, EPOCHS, factor, 0.7) for factor in (1, 10, 40)),
    *(Way(OURS, SOURCE, 4e-4, EPOCHS, 10, 0.7, ema) for ema in (0.9999, 0.9)),
    Way(OURS, SOURCE, 4e-4, EPOCHS, 10),
    *(Way(OURS, SOURCE, 3e-3, EPOCHS, factor) for factor in (1, 10)),
]
COMPARED = [
    Way(network, start, rate, COMPARED_EPOCHS[network])
    for network in (OURS, BASELINE)
    for start in (SCRATCH, SOURCE)
    for rate in COMPARED_RATES[network]
]


@dataclass(frozen=True)
class TuneRun:
    """One training.

    Args:
        task: what is learned: :data:`SOURCE`, or a key of :data:`~ppreplk.analysis.finetune_sets.SETS`.
        way: how.
        seed: of the drawn images, the new weights and the order.
    """

    task: str
    way: Way
    seed: int

    @property
    def name(self) -> str:
        network, start, rate, epochs, factor, decay, ema = self.way
        further = {"epochs": (epochs, EPOCHS), "decay": (decay, NO_DECAY), "ema": (ema, None)}
        details = "".join(f"-{key}{value:g}" for key, (value, usual) in further.items() if value != usual)
        return f"{self.task}-{network}-{start}-lr{rate:g}x{factor}{details}-seed{self.seed}"


def source_run(network: str) -> TuneRun:
    """The training whose weights others start from."""
    return TuneRun(SOURCE, Way(network, SCRATCH, SOURCE_RATES[network], SOURCE_EPOCHS[network]), 0)


def plan_finetuning(seeds: int) -> list[TuneRun]:
    """The trainings: those of the source first, then by seed."""
    runs = [
        TuneRun(task, way, seed)
        for seed in range(seeds)
        for task in SETS
        for way in [*WAYS, *(COMPARED if task == DIGITS else [])]
    ]
    return [*map(source_run, NETWORKS), *runs]


def finetune_study(config: str, seeds: int, output: str, overrides: Sequence[str] = ()) -> list[Table]:
    """Train what is not trained yet, then write ``finetune.csv`` and ``finetune.md``.

    Args:
        config: the base configuration, ``configs/digits.yaml``.
        seeds: trainings of each kind.
        output: folder of the results.
        overrides: ``Key.sub=value``, applied last to every run.

    Returns:
        The table of ways to fine-tune, and that of the two networks.

    Raises:
        UserError: scikit-learn, scikit-image or paddleclas is missing, a run that diverges, or results of other
            settings in ``output``.
    """
    root, runs = Path(output), plan_finetuning(seeds)
    folder = root / RESULTS
    make_folder(folder)
    write_sets(root, seeds)
    for run in runs[: len(runs) // seeds]:  # all are checked before the first is trained
        load_config(config, [*run_overrides(run, root, config), *overrides])

    def settings(run: TuneRun) -> dict[str, Any]:
        raw = read_yaml(config)
        for text in [*run_overrides(run, root, config), *overrides]:
            override(raw, text)
        return json.loads(json.dumps(raw))

    def kept(run: TuneRun) -> Result | None:
        if run.task == SOURCE and not weights_of(run.way.network, root).is_file():
            return None
        return read_kept(folder / f"{run.name}.json", settings(run), "top1")

    def train_run(run: TuneRun) -> Result:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch, only_warnings():
            listed = [*run_overrides(run, root, config), *overrides, f"Global.output_dir={scratch}"]
            state = train(load_config(config, listed))
            if run.task == SOURCE:
                with replacing(weights_of(run.way.network, root)) as [partial]:
                    shutil.copyfile(Path(scratch) / "latest.pdparams", partial)
        seconds = round(time.monotonic() - start, 1)
        result = {"top1": state.best_metric, "seconds": seconds, "config": settings(run)}
        keep(result, folder / f"{run.name}.json")
        return result

    results = finish(runs, kept, train_run, lambda result: f"top-1 {100 * result['top1']:.2f}%", folder)
    top1 = {run: round(100 * results[run.name]["top1"], 2) for run in runs}
    tables = [table_of_ways(top1, seeds), table_of_networks(top1, seeds)]
    lines = [[run.name, run.task, run.way.network, str(run.seed), f"{value:.2f}"] for run, value in top1.items()]
    write_table(Table("", ["run", "task", "network", "seed", "top-1"], lines), root / "finetune.csv")
    with replacing(root / "finetune.md") as [partial]:
        partial.write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")
    return tables


def weights_of(network: str, root: Path) -> Path:
    """Where the weights of the source task are kept."""
    return root / f"{SOURCE}-{network}.pdparams"


def write_sets(root: Path, seeds: int) -> None:
    """The images of all runs, in ``root/images``."""
    write_split(_images(root, SOURCE, 0), source_digits(), None, 0)
    for task, read in SETS.items():
        images = read()
        for seed in range(seeds):
            write_split(_images(root, task, seed), images, SHOWN, seed)


def _images(root: Path, task: str, seed: int) -> Path:
    return root / "images" / f"{task}-seed{seed}"


def run_overrides(run: TuneRun, root: Path, config: str) -> list[str]:
    """The overrides that turn ``configs/digits.yaml`` into the configuration of a run."""
    images, way = _images(root, run.task, run.seed), run.way
    classes = sum(1 for entry in (images / TRAIN).iterdir() if entry.is_dir())
    arch: dict[str, Any] = {"name": way.network, "class_num": classes}
    if way.network == OURS:
        arch["drop_path_rate"] = 0.0
    if way.decay != NO_DECAY:
        arch["layer_decay"] = way.decay
    optimizer = {
        "name": "AdamW",
        "weight_decay": 0.05,
        "one_dim_param_no_weight_decay": True,
        "head_lr_mult": way.factor,
        "lr": {"name": "Cosine", "learning_rate": way.rate, "warmup_epoch": 1, "eta_min": 1e-6},
    }
    overrides = [
        f"Arch={json.dumps(arch)}",
        f"Optimizer={json.dumps(optimizer)}",
        f"Global.epochs={way.epochs}",
        f"Global.seed={run.seed}",
        "Global.eval_interval=1000000",  # only the last epoch, which is always evaluated
        "Global.save_interval=0",
        "Global.builtin_dataset=null",
        "Infer=null",
        'Metric={"Eval": [{"TopkAcc": {"topk": [1]}}]}',
        f"DataLoader.Train.sampler.batch_size={SOURCE_BATCH if run.task == SOURCE else BATCH}",
        "Global.global_batch=null",
    ]
    if way.start == SOURCE:
        overrides.append(f"Global.pretrained_model={weights_of(way.network, root)}")
    if way.ema is not None:
        overrides.append(f"EMA={json.dumps({'decay': way.ema})}")
    splits = read_yaml(config)["DataLoader"]
    for split, part in {"Train": TRAIN, "Eval": VAL}.items():
        transforms = splits[split]["dataset"]["transform_ops"]
        dataset = {"name": "ImageFolderDataset", "image_root": str(images / part), "transform_ops": transforms}
        overrides.append(f"DataLoader.{split}.dataset={json.dumps(dataset)}")
    return overrides


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def table_of_ways(top1: dict[TuneRun, float], seeds: int) -> Table:
    """Rates of network and head, layer decay and averaging, on all sets."""
    lines = []
    for way in WAYS:
        cells = [_spread(_values(top1, task, way)) for task in SETS]
        details = ["" if way.decay == NO_DECAY else f"{way.decay:g}", "" if way.ema is None else f"{way.ema:g}"]
        lines.append([f"{way.rate:g}", f"x {way.factor}", *details, *cells])
    title = (
        f"{OURS} from the digits 0 to 4 to other images, {SHOWN} of each class, {EPOCHS} epochs; top-1 in %, "
        f"{seeds} seeds, ± is the standard deviation over them"
    )
    return Table(title, ["rate", "head", "layer decay", "EMA", *SETS], lines)


def table_of_networks(top1: dict[TuneRun, float], seeds: int) -> Table:
    """The two networks on the digits, each with the rate that is best on the very images that are evaluated."""
    lines = []
    for network in reversed(NETWORKS):
        for start in (SCRATCH, SOURCE):
            tried = [way for way in COMPARED if (way.network, way.start) == (network, start)]
            best = max(tried, key=lambda way: statistics.mean(_values(top1, DIGITS, way)))
            values = _values(top1, DIGITS, best)
            begun = SCRATCH if start == SCRATCH else "digits 0 to 4"
            rates = f"{best.rate:g} of {', '.join(f'{way.rate:g}' for way in tried)}"
            lines.append(
                [network, begun, str(best.epochs), rates, _spread(values), f"{min(values):.1f} to {max(values):.1f}"]
            )
    title = (
        f"Digits 5 to 9, {SHOWN} images of each; top-1 in % on the other images, {seeds} seeds, ± is the standard "
        "deviation over them"
    )
    return Table(title, ["network", "starts from", "epochs", "rate", "top-1", "lowest to highest"], lines)


def _values(top1: dict[TuneRun, float], task: str, way: Way) -> list[float]:
    return [value for run, value in top1.items() if run.task == task and run.way == way]


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"

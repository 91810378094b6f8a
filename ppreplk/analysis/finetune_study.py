"""Fine-tuning on few images: which rates, which averaging, and how it compares with a ResNet18 of paddleclas.

Networks are trained on the digits zero to four. From there, or from scratch, they learn other digits, faces, and
textures, of which they see a few images per class. Two networks are compared on the digits five to nine: both see the
same images under the same augmentation, their rates are chosen on validation images, and the numbers are those of test
images. Every finished run is kept, so that a study that was stopped goes on.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import load_config, override, read_yaml
from ..training import evaluate_config, train
from ..utils.atomic import make_folder, replacing
from ..utils.tables import Table, write_table
from .finetune_sets import SETS, TEST, TRAIN, VAL, other_digits, source_digits, write_split, write_three_parts
from .intervals import paired
from .kept_runs import RESULTS, Result, finish, keep, read_kept
from .small_study import only_warnings

SMALL = "RepLKNet13T"  # tries the ways to fine-tune
NETWORKS = OURS, BASELINE = "RepLKNet13T-wide", "ResNet18"  # are compared
ARCHS: dict[str, dict[str, Any]] = {
    SMALL: {"name": "RepLKNet13T", "drop_path_rate": 0.0},
    OURS: {"name": "RepLKNet13T", "drop_path_rate": 0.0, "channels": [32, 64, 128, 256]},
    BASELINE: {"name": "ResNet18"},
}
SOURCE = "source"  # the task before the others
SCRATCH = "scratch"
SHOWN = 10  # images of each class
SOURCE_BATCH = 32
SOURCE_RATES, SOURCE_EPOCHS = {SMALL: 4e-3, OURS: 4e-3, BASELINE: 1e-3}, {SMALL: 40, OURS: 40, BASELINE: 12}
EPOCHS, BATCH = 30, 10
WAY_SEEDS = 3
COMPARED = "compared"  # the task on which the networks are compared: the digits five to nine
# An epoch of ResNet18 takes over five times as long: both train for about the same time.
COMPARED_EPOCHS = {OURS: 150, BASELINE: 30}
COMPARED_RATES = {OURS: (1.5e-3, 3e-3, 6e-3), BASELINE: (4e-4, 1.6e-3, 6.4e-3)}
CHOOSING_SEEDS = 2  # of which all rates are trained
NO_DECAY = 1.0
# Small changes that leave a digit what it is; a flip would not.
AFFINE = {"degrees": 15, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 15}


class Way(NamedTuple):
    """How a network is fine-tuned.

    Args:
        network: a key of :data:`ARCHS`.
        start: :data:`SCRATCH`, or :data:`SOURCE` for the weights of that task.
        rate: peak learning rate.
        epochs: of the training.
        factor: ``head_lr_mult``.
        decay: ``layer_decay``.
        ema: decay of the averaged weights; None for none.
        affine: images are moved by :data:`AFFINE`, not cropped.
    """

    network: str
    start: str
    rate: float
    epochs: int
    factor: int = 1
    decay: float = NO_DECAY
    ema: float | None = None
    affine: bool = False


WAYS = [
    *(Way(SMALL, SOURCE, 4e-4, EPOCHS, factor, 0.7) for factor in (1, 10, 40)),
    *(Way(SMALL, SOURCE, 4e-4, EPOCHS, 10, 0.7, ema) for ema in (0.9999, 0.9)),
    Way(SMALL, SOURCE, 4e-4, EPOCHS, 10),
    *(Way(SMALL, SOURCE, 3e-3, EPOCHS, factor) for factor in (1, 10)),
    Way(SMALL, SOURCE, 3e-3, EPOCHS, affine=True),
]
TRIED = {
    (network, start): [
        Way(network, start, rate, COMPARED_EPOCHS[network], affine=True) for rate in COMPARED_RATES[network]
    ]
    for network, start in ((BASELINE, SCRATCH), (BASELINE, SOURCE), (OURS, SOURCE))
}


@dataclass(frozen=True)
class TuneRun:
    """One training.

    Args:
        task: what is learned: :data:`SOURCE`, :data:`COMPARED`, or a key of
            :data:`~ppreplk.analysis.finetune_sets.SETS`.
        way: how.
        seed: of the drawn images, the new weights and the order.
    """

    task: str
    way: Way
    seed: int

    @property
    def name(self) -> str:
        network, start, rate, epochs, factor, decay, ema, affine = self.way
        further = {"epochs": (epochs, EPOCHS), "decay": (decay, NO_DECAY), "ema": (ema, None)}
        details = "".join(f"-{key}{value:g}" for key, (value, usual) in further.items() if value != usual)
        details += "-affine" if affine else ""
        return f"{self.task}-{network}-{start}-lr{rate:g}x{factor}{details}-seed{self.seed}"


Percent = dict[tuple[TuneRun, str], float]  # {(run, "top1" or "test"): of the images, in %}


def source_run(network: str) -> TuneRun:
    """The training whose weights others start from."""
    way = Way(network, SCRATCH, SOURCE_RATES[network], SOURCE_EPOCHS[network], affine=network in NETWORKS)
    return TuneRun(SOURCE, way, 0)


def plan_ways(seeds: int) -> list[TuneRun]:
    """The trainings for :func:`table_of_ways`: that of the source, then by seed."""
    runs = [TuneRun(task, way, seed) for seed in range(seeds) for task in SETS for way in WAYS]
    return [source_run(SMALL), *runs]


def plan_choice(seeds: int) -> list[TuneRun]:
    """The trainings that choose the rates of the networks. Those of the source come first."""
    tried = [way for ways in TRIED.values() for way in ways]
    runs = [TuneRun(COMPARED, way, seed) for seed in range(min(seeds, CHOOSING_SEEDS)) for way in tried]
    return [*map(source_run, NETWORKS), *runs]


def chosen_ways(results: Mapping[str, Result]) -> list[Way]:
    """For each network and start the rate with the highest mean top-1 on the validation images."""

    def validation(way: Way) -> float:
        runs = [TuneRun(COMPARED, way, seed) for seed in range(CHOOSING_SEEDS)]
        return statistics.mean(results[run.name]["top1"] for run in runs if run.name in results)

    return [max(tried, key=validation) for tried in TRIED.values()]


def longer(ways: Sequence[Way]) -> list[Way]:
    """The same with twice the epochs."""
    return [way._replace(epochs=2 * way.epochs) for way in ways]


def finetune_study(config: str, seeds: int, output: str, overrides: Sequence[str] = ()) -> list[Table]:
    """Train what is not trained yet, then write ``finetune.csv`` and ``finetune.md``.

    Args:
        config: the base configuration, ``configs/digits.yaml``.
        seeds: draws of images on which the networks are compared; the ways to fine-tune take :data:`WAY_SEEDS`.
        output: folder of the results.
        overrides: ``Key.sub=value``, applied last to every run.

    Returns:
        The table of ways to fine-tune, that of the two networks, and that of their differences.

    Raises:
        UserError: scikit-learn, scikit-image or paddleclas is missing, a run that diverges, or results of other
            settings in ``output``.
    """
    root, way_seeds = Path(output), min(seeds, WAY_SEEDS)
    folder = root / RESULTS
    make_folder(folder)
    write_sets(root, seeds)
    ways, choice = plan_ways(way_seeds), plan_choice(seeds)
    for run in [*ways, *choice]:  # all are checked before the first is trained
        if run.seed == 0:
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
            result: Result = {"top1": state.best_metric}
            trained = Path(scratch) / "latest.pdparams"
            if run.task == SOURCE:
                with replacing(weights_of(run.way.network, root)) as [partial]:
                    shutil.copyfile(trained, partial)
            if run.task == COMPARED:
                tested = load_config(config, [*listed, *test_overrides(run, root, trained)])
                result["test"] = evaluate_config(tested)["top1"]
        result |= {"seconds": round(time.monotonic() - start, 1), "config": settings(run)}
        keep(result, folder / f"{run.name}.json")
        return result

    def finished(runs: Sequence[TuneRun]) -> dict[str, Result]:
        return finish(runs, kept, train_run, lambda result: f"top-1 {100 * result['top1']:.2f}%", folder)

    results = finished(list(dict.fromkeys([*ways, *choice])))
    chosen = chosen_ways(results)
    compared = [TuneRun(COMPARED, way, seed) for seed in range(seeds) for way in [*chosen, *longer(chosen)]]
    results |= finished(compared)
    runs = list(dict.fromkeys([*ways, *choice, *compared]))
    percent: Percent = {
        (run, part): round(100 * results[run.name][part], 2)
        for run in runs
        for part in ("top1", "test")
        if part in results[run.name]
    }
    tables = [
        table_of_ways(percent, way_seeds),
        table_of_networks(percent, chosen),
        table_of_differences(percent, chosen),
    ]
    lines = [
        [run.name, run.task, run.way.network, str(run.seed), part, f"{value:.2f}"]
        for (run, part), value in percent.items()
    ]
    columns = ["run", "task", "network", "seed", "part", "top-1"]
    write_table(Table("", columns, lines), root / "finetune.csv")
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
        for seed in range(min(seeds, WAY_SEEDS)):
            write_split(_images(root, task, seed), images, SHOWN, seed)
    for seed in range(seeds):
        write_three_parts(_images(root, COMPARED, seed), other_digits(), SHOWN, seed)


def _images(root: Path, task: str, seed: int) -> Path:
    return root / "images" / f"{task}-seed{seed}"


def run_overrides(run: TuneRun, root: Path, config: str) -> list[str]:
    """The overrides that turn ``configs/digits.yaml`` into the configuration of a run."""
    images, way = _images(root, run.task, run.seed), run.way
    classes = sum(1 for entry in (images / TRAIN).iterdir() if entry.is_dir())
    arch = {**ARCHS[way.network], "class_num": classes}
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
        if part == TRAIN and way.affine:
            transforms = affine_transforms(splits["Eval"]["dataset"]["transform_ops"])
        dataset = {"name": "ImageFolderDataset", "image_root": str(images / part), "transform_ops": transforms}
        overrides.append(f"DataLoader.{split}.dataset={json.dumps(dataset)}")
    return overrides


def affine_transforms(evaluation: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transforms of an evaluation, with :data:`AFFINE` after the resizing."""
    place = 1 + next(index for index, op in enumerate(evaluation) if "ResizeImage" in op)
    return [*evaluation[:place], {"RandomAffine": AFFINE}, *evaluation[place:]]


def test_overrides(run: TuneRun, root: Path, weights: Path) -> list[str]:
    """Further overrides: evaluate ``weights`` on the test images of a run."""
    images = _images(root, run.task, run.seed) / TEST
    return [f"DataLoader.Eval.dataset.image_root={images}", f"Global.pretrained_model={weights}"]


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def table_of_ways(percent: Percent, seeds: int) -> Table:
    """Rates of network and head, layer decay, averaging and augmentation, on all sets."""
    lines = []
    for way in WAYS:
        cells = [_spread(_values(percent, task, way, "top1")) for task in SETS]
        details = ["" if way.decay == NO_DECAY else f"{way.decay:g}", "" if way.ema is None else f"{way.ema:g}"]
        images = "moved" if way.affine else "cropped"
        lines.append([f"{way.rate:g}", f"x {way.factor}", *details, images, *cells])
    title = (
        f"{SMALL} from the digits 0 to 4 to other images, {SHOWN} of each class, {EPOCHS} epochs; top-1 in %, "
        f"{seeds} seeds, ± is the standard deviation over them"
    )
    return Table(title, ["rate", "head", "layer decay", "EMA", "images", *SETS], lines)


def table_of_networks(percent: Percent, chosen: Sequence[Way]) -> Table:
    """The networks on the test images, each with the rate that is best on the validation images, at both lengths."""
    lines = []
    for way in [*chosen, *longer(chosen)]:
        validation, test = (_values(percent, COMPARED, way, part) for part in ("top1", "test"))
        tried = ", ".join(f"{other.rate:g}" for other in TRIED[way.network, way.start])
        begun = [way.network, _begin(way), str(way.epochs), f"{way.rate:g} of {tried}"]
        lines.append([*begun, _spread(validation), _spread(test), f"{min(test):.1f} to {max(test):.1f}"])
    title = (
        f"Digits 5 to 9, {SHOWN} images of each; top-1 in % on images that chose the rate (validation) and on others "
        f"(test), {len(test)} draws of the images, ± is the standard deviation over them"
    )
    columns = ["network", "starts from", "epochs", "rate", "validation", "test", "lowest to highest"]
    return Table(title, columns, lines)


def table_of_differences(percent: Percent, chosen: Sequence[Way]) -> Table:
    """Our network from the other digits minus the others, draw by draw on the test images.

    At both lengths, and with the one of its two lengths that each network and start does best with on the validation
    images.
    """
    preferred = [
        max(both, key=lambda way: statistics.mean(_values(percent, COMPARED, way, "top1")))
        for both in zip(chosen, longer(chosen))
    ]
    lines = []
    for length, ways in (("shorter", chosen), ("longer", longer(chosen)), ("best on validation", preferred)):
        ours = next(way for way in ways if (way.network, way.start) == (OURS, SOURCE))
        mine = _values(percent, COMPARED, ours, "test")
        for way in ways:
            if way == ours:
                continue
            other = _values(percent, COMPARED, way, "test")
            difference = paired(mine, other)
            higher, lower = sum(a > b for a, b in zip(mine, other)), sum(a < b for a, b in zip(mine, other))
            extent = f"{difference.low:+.2f} to {difference.high:+.2f}" if len(mine) > 1 else ""  # one draw has none
            compared = [way.network, _begin(way), length, f"{ours.epochs} and {way.epochs}"]
            lines.append([*compared, f"{difference.mean:+.2f}", extent, f"{higher} and {lower}"])
    title = (
        f"{OURS} from the digits 0 to 4 minus the others, in points of test top-1, pairwise over {len(mine)} draws of "
        "the images"
    )
    columns = ["minus", "starts from", "length", "epochs", "mean", "95% interval", "draws above and below"]
    return Table(title, columns, lines)


def _begin(way: Way) -> str:
    return SCRATCH if way.start == SCRATCH else "digits 0 to 4"


def _values(percent: Percent, task: str, way: Way, part: str) -> list[float]:
    return [value for (run, kind), value in percent.items() if (run.task, run.way, kind) == (task, way, part)]


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"

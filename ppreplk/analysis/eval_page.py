"""The page of an evaluation's report: plain HTML, beside the pictures and tables that it shows and links to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..utils.html_text import escaped

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
p.note { color: #555; }
"""
OPEN_ROWS = 100  # a longer table is folded up

Summary = Mapping[str, Any]


def page(summary: Summary) -> str:
    """The HTML of a report from what ``report.json`` says."""
    evaluations = summary["evaluations"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Evaluation</h1>",
        _note(
            f"{summary['images']} images of {summary['data_set']}, {summary['classes']} classes; configuration "
            f"{summary['configuration']}; ppreplk {summary['ppreplk']}. The same numbers are in report.json."
        ),
    ]
    if summary["pictures_left_out"]:
        parts.append(_note(f"There are no pictures: {summary['pictures_left_out']}."))
    parts.append(_overview(summary))
    for evaluation in evaluations:
        parts += _evaluation(summary, evaluation)
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _overview(summary: Summary) -> str:
    """One line for each number, one column for each set of weights."""
    evaluations = summary["evaluations"]

    def line(name: str, value: Callable[[Summary], Any]) -> list[Any]:
        return [name, *(value(evaluation) for evaluation in evaluations)]

    ks = list(evaluations[0]["accuracy"])
    rows = [line("file", lambda each: each["file"])]
    rows += [line(f"{k} accuracy", lambda each, k=k: each["accuracy"][k]) for k in ks]  # type: ignore[misc]
    rows.append(line("balanced accuracy (mean recall)", lambda each: each["balanced_accuracy"]))
    for average in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            rows.append(
                line(f"{average} {name}", lambda each, a=average, n=name: each["averages"][a][n])  # type: ignore[misc]
            )
    rows.append(line("negative log-likelihood", lambda each: each["negative_log_likelihood"]))
    rows.append(line("expected calibration error", lambda each: each["calibration"]["ece"]))
    rows.append(line("errors", lambda each: each["errors"]))
    rows.append(line("images per second, with reading", lambda each: int(each["throughput"]["with_reading"])))
    rows.append(line("images per second, network alone", lambda each: int(each["throughput"]["without_reading"])))
    for name in evaluations[0]["results"]:
        rows.append(line(f"in the log: {name}", lambda each, n=name: each["results"][n]))  # type: ignore[misc]
    columns = ["", *(f"{each['weights']} weights" if each["weights"] else "value" for each in evaluations)]
    without = max(each["classes_without_images"] for each in evaluations)
    notes = [
        f"Throughput: {summary['device']}, processes: {summary['processes']}, batch size {summary['batch_size']}, "
        f"loader processes: {summary['num_workers']}; the first batch does not count."
    ]
    if without:
        notes.append(
            f"{without} classes have no images. Macro averages are over the classes that occur, among the true or the "
            "predicted ones."
        )
    return _table(columns, rows) + "".join(_note(text) for text in notes)


def _evaluation(summary: Summary, evaluation: Summary) -> list[str]:
    files = evaluation["files"]
    title = f"<h2>{_text(evaluation['weights'].capitalize())} weights</h2>" if evaluation["weights"] else ""
    return [
        title,
        "<h3>Confusions</h3>",
        _picture(files, "confusion.png", "confusion matrix"),
        _note(_confusion_note(summary, evaluation)),
        _pairs(evaluation),
        "<h3>Worst errors</h3>",
        *_errors(evaluation),
        "<h3>Calibration</h3>",
        _picture(files, "reliability.png", "reliability diagram"),
        *_calibration(evaluation["calibration"], evaluation["negative_log_likelihood"]),
        "<h3>Classes</h3>",
        _classes(evaluation),
        "<p>Tables: " + ", ".join(_link(files[name], name) for name in files if name.endswith(".csv")) + "</p>",
    ]


def _confusion_note(summary: Summary, evaluation: Summary) -> str:
    shown = evaluation["confusion"]["classes_in_picture"]
    classes = summary["classes"]
    text = "The picture has all classes."
    if shown < classes:
        text = f"The picture has the {shown} of {classes} classes with the most errors, and nothing of the others."
    kind = "the whole matrix" if evaluation["confusion"]["csv_is_a_matrix"] else "a line for each pair that occurs"
    return f"{text} confusion.csv has {kind}. {evaluation['pairs_confused']} pairs of classes are confused."


def _pairs(evaluation: Summary) -> str:
    pairs = evaluation["most_confused_pairs"]
    rows = [[_class(pair, "true"), _class(pair, "predicted"), pair["images"]] for pair in pairs]
    return _table(["true", "predicted", "images"], rows) if rows else ""


def _errors(evaluation: Summary) -> list[str]:
    worst = evaluation["worst_errors"]
    if not worst:
        return [_note("No image was taken for another class.")]
    rows = [
        [
            *(number, error["path"], _class(error, "true"), _class(error, "predicted")),
            *(error["probability"], error["probability_of_true"]),
        ]
        for number, error in enumerate(worst, 1)
    ]
    columns = ["", "image", "true", "predicted", "probability", "of the true class"]
    shown, total = len(worst), evaluation["errors"]
    count = "All errors, the surest first." if shown == total else f"The {shown} of {total} errors it was surest of."
    return [_picture(evaluation["files"], "errors.png", "worst errors"), _note(count), _table(columns, rows)]


def _calibration(calibration: Summary, likelihood: float) -> list[str]:
    end = "" if calibration["temperature_is_a_minimum"] else ", the end of the range that was searched"
    rows = [
        ["as it is", 1.0, likelihood, calibration["ece"]],
        [
            f"temperature fitted to these images{end}",
            *(calibration["temperature"], calibration["negative_log_likelihood_after"], calibration["ece_after"]),
        ],
        ["temperature fitted to every second image, for the others", "", "", calibration["ece_after_held_out"]],
    ]
    bins = [
        [f"{index / calibration['bins']:.3f} to {(index + 1) / calibration['bins']:.3f}", *_bin(before), *_bin(after)]
        for index, (before, after) in enumerate(zip(*calibration["reliability"].values()))
    ]
    columns = ["confidence", *("images", "mean confidence", "accuracy") * 2]
    return [
        _table(["", "temperature", "negative log-likelihood", "ECE"], rows),
        _note(
            f"ECE is the mean distance of accuracy and confidence over {calibration['bins']} bins of equal width, "
            "weighted by their images. Logits are divided by the temperature, which minimises the negative "
            "log-likelihood. The table has the bins as it is, then with the temperature fitted to these images."
        ),
        _folded("bins", _table(columns, bins)),
    ]


def _bin(values: Summary) -> list[Any]:
    return [values["images"], *((values["confidence"], values["accuracy"]) if values["images"] else ("", ""))]


def _classes(evaluation: Summary) -> str:
    rows = [
        [each["class"], each["name"], *(each[name] for name in ("precision", "recall", "f1", "support", "predictions"))]
        for each in evaluation["per_class"]
    ]
    for name, values in evaluation["averages"].items():
        rows.append(["", f"{name} average", *values.values(), "", ""])
    columns = ["class", "name", "precision", "recall", "F1", "images (support)", "predictions"]
    table = _table(columns, rows)
    return table if len(rows) <= OPEN_ROWS else _folded(f"{len(evaluation['per_class'])} classes", table)


# ----------------------------------------------------------------------------------------------------------------------
# HTML


def _text(value: Any) -> str:
    """Escaped text of a value, a number with as many digits as a reader needs."""
    if isinstance(value, float):
        value = f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
    return escaped(str(value))


def _class(row: Summary, which: str) -> str:
    name, number = row[f"{which}_name"], row[which]
    return str(number) if name == str(number) else f"{name} ({number})"


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>'


def _link(path: str, text: str) -> str:
    return f'<a href="{quote(path)}">{_text(text)}</a>'


def _picture(files: Mapping[str, str], name: str, text: str) -> str:
    return f'<p><img src="{quote(files[name])}" alt="{_text(text)}"></p>' if name in files else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = list(rows)
    first = rows[0] if rows else columns
    heads = (_cell(column, "th", isinstance(value, (int, float))) for column, value in zip(columns, first))
    lines = [f"<tr>{''.join(heads)}</tr>"]
    lines += [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _cell(value: Any, tag: str = "td", is_number: bool | None = None) -> str:
    if is_number is None:
        is_number = isinstance(value, (int, float))
    return f"<{tag}{' class=number' if is_number else ''}>{_text(value)}</{tag}>"

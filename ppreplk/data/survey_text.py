"""What a check of the data has found, as text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..utils.tables import Table
from .scan import counted
from .survey import Survey
from .survey_comparisons import Part
from .survey_findings import DISTORTS, SEVERITIES, STOPS, Findings, kind_of

SHOWN_LINES = 20  # of each kind
MEGABYTE = 1e6


def text_report(survey: Survey) -> str:
    """Numbers of both sets, and what was found: the first lines of each kind."""
    return "\n".join([summary(survey.parts).markdown(), *_findings(survey.findings), verdict(survey.findings)])


def verdict(findings: Findings) -> str:
    """One line: how many findings there are of what matters."""
    stops, distorts = findings.total(STOPS), findings.total(DISTORTS)
    if not stops and not distorts:
        return "nothing found that stops or distorts a training"
    texts = [f"{counted(number, 'finding')} that {how}" for number, how in _harm(stops, distorts)]
    return " and ".join(texts)


def _harm(stops: int, distorts: int) -> Iterator[tuple[int, str]]:
    for number, one, several in ((stops, "stops", "stop"), (distorts, "distorts", "distort")):
        if number:
            yield number, f"{one if number == 1 else several} a training"


def summary(parts: list[Part]) -> Table:
    """The numbers of each set side by side."""
    rows = {
        "images": [str(len(part.records)) for part in parts],
        "of them usable": [str(len(part.usable)) for part in parts],
        "classes with images": [f"{(part.counts > 0).sum()} of {len(part.counts)}" for part in parts],
        "images per class": [_spread(part.counts) for part in parts],
        "sizes": [_sizes(part) for part in parts],
        "modes": [_frequencies(part, "mode") for part in parts],
        "formats": [_frequencies(part, "format") for part in parts],
        "megabytes": [f"{part.records['bytes'].sum() / MEGABYTE:.1f}" for part in parts],
    }
    columns = ["", *(f"{part.name}: {part.images.source}" for part in parts)]
    return Table("The data", columns, [[name, *cells] for name, cells in rows.items()])


def _spread(counts: np.ndarray) -> str:
    return f"{counts.min()} to {counts.max()}, median {np.median(counts):g}" if len(counts) else "none"


def _sizes(part: Part) -> str:
    """The smallest, the median and the largest image, by their number of pixels."""
    if not len(part.usable):
        return "none"
    order = np.argsort(part.usable["width"].astype(np.int64) * part.usable["height"], kind="stable")
    chosen = part.usable[order[[0, len(order) // 2, -1]]]
    least, middle, most = (f"{record['width']}x{record['height']}" for record in chosen)
    return least if least == most else f"{least} to {most}, median {middle}"


def _frequencies(part: Part, field: str) -> str:
    names, counts = np.unique(part.usable[field], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{names[place].decode() or 'unknown'} {counts[place]}" for place in order) or "none"


def _findings(findings: Findings) -> Iterator[str]:
    for severity, heading in SEVERITIES.items():
        for code in findings.of(severity):
            yield f"{heading}: {kind_of(code)[1]}, {findings.counts[code]} [{code}]"
            kept, number = findings.kept[code], findings.counts[code]
            yield from (f"    {finding.text}" for finding in kept[:SHOWN_LINES])
            if number > SHOWN_LINES:
                yield f"    and {number - SHOWN_LINES} more"
            yield ""

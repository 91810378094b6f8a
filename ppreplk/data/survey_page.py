"""What a check of the data has found, as one HTML page with pictures, and as a table of all findings."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..utils.atomic import make_folder, replacing
from ..utils.errors import UserError
from ..utils.html_text import escaped
from ..utils.tables import Table
from .datasets import read_image_file
from .decoding import DecodeImage
from .images import as_pillow
from .survey import Survey
from .survey_comparisons import Part, class_name
from .survey_findings import SEVERITIES, Finding, Findings, kind_of
from .survey_text import summary, verdict

PAGE, TABLE = "check-data.html", "findings.csv"
SIDE = 128  # of a thumbnail, in pixels
SHOWN_FINDINGS = 200  # of each kind, as lines
SHOWN_PICTURES = 24  # of each kind, findings with their pictures
SHOWN_CLASSES = 200
STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: left }
h2 .stops { color: #b00020 } h2 .distorts { color: #a05a00 } h2 .note { color: #456 }
.findings { display: flex; flex-wrap: wrap; gap: 1em; padding: 0; list-style: none }
.findings li { border: 1px solid #ddd; padding: .5em; max-width: 32em; overflow-wrap: anywhere; font-size: 13px }
img { margin: 2px; border: 1px solid #eee; image-rendering: pixelated }
.none { display: inline-block; padding: 1em; margin: 2px; background: #eee; color: #666 }
.bar { background: #4878a8; height: .8em }
"""


def write_report(survey: Survey, folder: str | Path) -> list[Path]:
    """Write the page, which needs no other file, and the table of findings; each replaces an earlier one.

    Returns:
        Their paths.

    Raises:
        UserError: they cannot be written.
    """
    folder = Path(folder)
    make_folder(folder, "--report")
    paths = [folder / PAGE, folder / TABLE]
    with replacing(*paths) as [page, table]:
        page.write_text(html_report(survey), encoding="utf-8", errors="backslashreplace")
        table.write_text(table_of(survey.findings).csv(), encoding="utf-8", errors="backslashreplace")
    return paths


def table_of(findings: Findings) -> Table:
    """Every finding that was kept: how bad it is, its code, and its text."""
    rows = [
        [severity, code, finding.text]
        for severity in SEVERITIES
        for code in findings.of(severity)
        for finding in findings.kept[code]
    ]
    return Table("Findings", ["severity", "code", "finding"], rows)


def html_report(survey: Survey) -> str:
    """The page. Names of files are text in it, whatever they are."""
    body = [f"<h1>Data of a training</h1>\n<p>{escaped(verdict(survey.findings))}.</p>", _table(summary(survey.parts))]
    body += _findings(survey.findings)
    body += [_classes(part) for part in survey.parts]
    head = f'<meta charset="utf-8">\n<title>check-data</title>\n<style>{STYLE}</style>'
    return "\n".join([f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>', *body, "</body>\n</html>\n"])


def _table(table: Table) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escaped(cell)}</{kind}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", row(table.columns, "th"), *(row(cells, "td") for cells in table.rows), "</table>"])


def _findings(findings: Findings) -> Iterator[str]:
    for severity, heading in SEVERITIES.items():
        for code in findings.of(severity):
            number, kept = findings.counts[code], findings.kept[code]
            title = f'<span class="{severity}">{escaped(heading)}</span>: {escaped(kind_of(code)[1])}'
            yield f"<h2>{title}, {number} <small>[{escaped(code)}]</small></h2>"
            shown = kept[:SHOWN_FINDINGS]
            items = [_item(finding, with_pictures=place < SHOWN_PICTURES) for place, finding in enumerate(shown)]
            yield '<ul class="findings">\n' + "\n".join(items) + "\n</ul>"
            if number > len(shown):
                yield f"<p>and {number - len(shown)} more; {TABLE} has the first {len(kept)}</p>"


def _item(finding: Finding, with_pictures: bool) -> str:
    pictures = "".join(map(thumbnail, finding.images)) if with_pictures else ""
    return f"<li>{pictures}<br>{escaped(finding.text)}</li>" if pictures else f"<li>{escaped(finding.text)}</li>"


def thumbnail(path: str) -> str:
    """An image as a small picture inside the page, or a word where it cannot be read."""
    try:
        picture = as_pillow(DecodeImage(backend="pil")(read_image_file(path), np.random.default_rng(0)))
    except UserError:
        return '<span class="none">no picture</span>'
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    larger = 'width="64" ' if max(picture.size) < SIDE // 2 else ""
    return f'<img {larger}alt="{escaped(path)}" title="{escaped(path)}" src="data:image/png;base64,{data}">'


def _classes(part: Part) -> str:
    """The classes with the fewest and the most images, as bars."""
    order = np.argsort(part.counts, kind="stable")
    if len(order) > SHOWN_CLASSES:
        order = np.concatenate([order[: SHOWN_CLASSES // 2], order[-SHOWN_CLASSES // 2 :]])
    most = max(part.counts.max(initial=0), 1)
    rows = [
        f"<tr><td>{escaped(class_name(int(label), part.images.classes))}</td><td>{part.counts[label]}</td>"
        f'<td style="width:30em"><div class="bar" style="width:{100 * part.counts[label] / most:.1f}%"></div></td></tr>'
        for label in order
    ]
    which = f", the smallest and the largest {SHOWN_CLASSES // 2}" if len(part.counts) > SHOWN_CLASSES else ""
    return f"<h2>{part.name}: images per class{which}</h2>\n<table>\n" + "\n".join(rows) + "\n</table>"

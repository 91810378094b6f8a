"""Run the notebooks and keep them with their outputs: python notebooks/render.py FOLDER [NAME ...]

The cells run in FOLDER, whose ``work/ppreplk`` is this project (a link does), as on AI Studio, with the Python that
runs this script; it needs nbclient and ipykernel. Copies with outputs go to ``notebooks/rendered``. Both languages of a
notebook have the same code, so it runs once and both get its outputs.
"""

import base64
import copy
import io
import sys
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

HERE = Path(__file__).resolve().parent
NAMES = ("replknet_quickstart", "large_kernels")


def execute(name: str, folder: Path) -> nbformat.NotebookNode:
    """The English notebook with the outputs of a run in ``folder``."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def lines_that_stay(text: str) -> str:
    """What a terminal shows in the end: of lines written over one another the last. The home folder is ``~``."""
    text = text.replace(str(Path.home()), "~")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(line for line, next_line in zip(lines, [*lines[1:], "end"]) if line or next_line)


def small(png: str) -> str:
    """A picture in few colours: the copies stay small."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def joined(outputs: list) -> list:
    """Copies of the outputs; what one stream says without a break is one output."""
    result: list = []
    for output in copy.deepcopy(outputs):
        if result and output.get("name", "no stream") == result[-1].get("name"):
            result[-1]["text"] += output["text"]
        else:
            result.append(output)
    return result


def kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without what only a terminal needs, and with a small picture."""
    output.get("metadata", {}).clear()
    if "text" in output:
        output["text"] = lines_that_stay(output["text"])
    if "image/png" in output.get("data", {}):
        output["data"]["image/png"] = small(output["data"]["image/png"])
    return output


def with_outputs(name: str, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook ``name`` with the outputs of another whose code is the same."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    for cell, run in zip(notebook.cells, executed.cells):
        if cell.cell_type == "markdown":  # the copy lies one folder deeper
            cell.source = cell.source.replace("](../", "](../../").replace("](rendered/", "](")
            continue
        assert cell.source == run.source
        cell.outputs = [kept(output) for output in joined(run.outputs)]
        cell.execution_count = run.execution_count
    return notebook


def main(folder: str, *names: str) -> None:
    (HERE / "rendered").mkdir(exist_ok=True)
    for name in names or NAMES:
        executed = execute(name, Path(folder))
        for version in (name, f"{name}.zh"):
            nbformat.write(with_outputs(version, executed), HERE / "rendered" / f"{version}.ipynb")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""docs/imagenet.md: its code runs, and what it prints is what the page says."""

import re

from helpers import ROOT, run_python


def test_the_differences_are_those_on_the_page():
    page = (ROOT / "docs" / "imagenet.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    share, whole, reduced = re.findall(r"(\d+%|\d\.\d of 255)", run_python(code))
    said = " ".join(page.split())
    assert f"It prints {share} and {whole} for the first, and {reduced} for the second." in said
    assert f"For {share} of all sizes" in said

"""Optional packages that are missing, or there and broken in any way: one line where they are needed."""

import sys

import pytest
from helpers import refused

from ppreplk.benchmark.input import write_photographs
from ppreplk.config import ArchConfig
from ppreplk.data.digits import prepare_digits
from ppreplk.data.images import import_cv2
from ppreplk.deploy.verify import _photographs
from ppreplk.models.arch import build_network
from ppreplk.training.curves import Curves
from ppreplk.utils.figures import check_matplotlib
from ppreplk.utils.optional import import_optional, import_problem

BROKEN = {
    'raise ImportError("libGL.so.1: cannot open\\nshared object file")': "libGL.so.1: cannot open shared object file",
    'raise AttributeError("module has no attribute x")': "AttributeError: module has no attribute x",
    "import numpy; numpy.no_such_type": "AttributeError: module 'numpy' has no attribute 'no_such_type'",
    'import sys; sys.exit("faiss is missing")': "SystemExit: faiss is missing",
    "raise SystemError": "SystemError",
    "def f(:": "SyntaxError: invalid syntax (__init__.py, line 1)",
}
PLACES = {
    "cv2": (lambda folder: import_cv2(), "data.missing-package", "use backend: pil"),
    "sklearn": (lambda folder: prepare_digits(folder / "digits"), "data.missing-package", "pip install scikit-learn"),
    "sklearn, export": (lambda folder: _photographs(), "deploy.missing-package", "name images in DataLoader.Eval"),
    "sklearn, benchmark": (write_photographs, "benchmark.missing-package", "pip install scikit-learn"),
    "matplotlib": (lambda folder: check_matplotlib(), "utils.no-matplotlib", "figures need matplotlib"),
    "visualdl": (Curves, "training.no-visualdl", "pip install visualdl"),
    "paddleclas": (
        lambda folder: build_network(ArchConfig(where="Arch", arguments={}, name="RepLKNet31")),
        "models.unknown-model",
        "did you mean RepLKNet31L or RepLKNet31B",
    ),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that puts a package in front of the installed one. Everything is as it was after the test."""
    folder, made = tmp_path / "modules", set()
    monkeypatch.syspath_prepend(str(folder))

    def of(name: str) -> list[str]:
        return [module for module in sys.modules if module.partition(".")[0] == name]

    def make(name: str, text: str) -> None:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
        made.add(name.partition("/")[0])
        for module in of(name):
            monkeypatch.delitem(sys.modules, module)

    yield make
    for name in made:
        for module in of(name):
            del sys.modules[module]


@pytest.mark.parametrize("text, reason", BROKEN.items())
def test_why_a_module_cannot_be_imported(package, text, reason):
    package("broken_package_of_the_tests", text)
    assert import_problem("broken_package_of_the_tests") == reason
    with refused("room.missing-package", f"pictures need it ({reason}); use something else"):
        import_optional("broken_package_of_the_tests", "pictures need it", "use something else", "room.missing-package")


def test_a_module_that_works_is_returned():
    assert import_optional("os.path", "", "", "").join("a", "b")
    assert import_problem("no_such_package.part") == "No module named 'no_such_package'"


@pytest.mark.parametrize("text, reason", [*BROKEN.items()][1:4])
@pytest.mark.parametrize("place", PLACES)
def test_every_place_says_it_in_one_line(package, tmp_path, place, text, reason):
    call, code, advice = PLACES[place]
    package(place.partition(",")[0], text)
    with refused(code, reason, advice):
        call(tmp_path)


def test_what_a_backbone_of_paddleclas_rejects_is_one_line(package):
    text = "def ResNet50(class_num, layers=18):\n    {18: 1, 50: 2}[layers]\n    assert class_num > 1, 'one class'\n"
    for part, content in (("", ""), ("/ppcls", ""), ("/ppcls/arch", ""), ("/ppcls/arch/backbone", text)):
        package(f"paddleclas{part}", content)
    for arguments, class_num, reason in (({"layers": 34}, 5, "KeyError: 34"), ({}, 1, "AssertionError: one class")):
        with refused("models.bad-argument", "Arch", "paddleclas's ResNet50 does not take these arguments", reason):
            build_network(ArchConfig(where="Arch", arguments=arguments, name="ResNet50", class_num=class_num))

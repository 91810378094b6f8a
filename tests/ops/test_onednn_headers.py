"""oneDNN's headers: taken from the installed package, or refused with the command that installs it."""

import pytest
from helpers import ROOT, refused

from ppreplk.ops import build
from ppreplk.ops import onednn_headers as headers

CONFIGURATION = "#define DNNL_CPU_RUNTIME DNNL_RUNTIME_SYCL\n#define DNNL_WITH_SYCL\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Where packages are installed; there is none at first."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(headers.metadata.MetadataPathFinder, "find_distributions", find_in(folder))
    return folder


def find_in(folder):
    finder = headers.metadata.MetadataPathFinder.find_distributions

    def find(context):
        return finder(headers.metadata.DistributionFinder.Context(name=context.name, path=[str(folder)]))

    return staticmethod(find)


def install(site, version="2025.0.1", **files):
    """Install a distribution of that version in ``site``: {name without suffix: content}."""
    folder = site / "include" / "oneapi" / "dnnl"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.h").write_text(content)
    information = site / f"onednn_devel-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: onednn-devel\nVersion: {version}\n")
    (information / "RECORD").write_text("".join(f"include/oneapi/dnnl/{name}.h,,\n" for name in files))
    return folder


def test_installed_headers_are_adapted(site, tmp_path):
    install(site, dnnl="// declarations", dnnl_config=CONFIGURATION)
    headers.provide(tmp_path)
    folder = tmp_path / "oneapi" / "dnnl"
    assert sorted(path.name for path in folder.iterdir()) == ["dnnl.h", "dnnl_config.h"]
    assert (folder / "dnnl.h").read_text() == "// declarations"
    assert (folder / "dnnl_config.h").read_text() == "#define DNNL_CPU_RUNTIME DNNL_RUNTIME_OMP\n\n"


def test_headers_that_are_not_installed(site, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = f"pip install --no-deps '{headers.REQUIREMENT}'"
    with refused("ops.no-onednn-headers", "oneDNN's headers: they are not installed", command, "ppreplk[onednn]"):
        build.build_library(build.CHANNELS_LAST)
    assert build.find_library(build.CHANNELS_LAST) is None


@pytest.mark.parametrize("version", ["2025.1.0", "2024.2.0", "2025.01"])
def test_headers_of_another_release(site, tmp_path, version):
    install(site, version, dnnl_config=CONFIGURATION)
    with refused("ops.no-onednn-headers", f"onednn-devel is {version} here, needed is 2025.0; pip install"):
        headers.provide(tmp_path)


def test_an_installation_without_its_files(site, tmp_path):
    folder = install(site, dnnl="// declarations", dnnl_config=CONFIGURATION)
    (folder / "dnnl_config.h").unlink()
    with refused("ops.no-onednn-headers", "has no oneapi/dnnl/dnnl_config.h; pip install"):
        headers.provide(tmp_path / "first")


def test_the_extra_brings_the_release_that_is_read():
    assert f"'{headers.REQUIREMENT}; " in (ROOT / "pyproject.toml").read_text()

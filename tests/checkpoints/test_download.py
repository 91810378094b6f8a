"""Downloads from a server on loopback that cuts off, lies, hangs, moves and refuses."""

import errno
import hashlib
import logging
import random
import subprocess
import sys
import time
from collections import namedtuple

import pytest
from helpers import refused
from servers import serving

from ppreplk.checkpoints import download as module
from ppreplk.checkpoints.download import ATTEMPTS, Expected, download

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = Expected(len(CONTENT), SHA256)


@pytest.fixture
def server():
    with serving({"weights.pth": CONTENT}) as running:
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights.pth"


def files_beside(target) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("how", ["", "plain/", "redirect/", "busy/", "unsized/"])
@pytest.mark.parametrize("expected", [RIGHT, Expected(None, SHA256[:8]), Expected(len(CONTENT)), Expected()])
def test_arrives_whole_and_leaves_nothing_else(server, target, how, expected):
    assert download(f"{server.address}/{how}weights.pth", target, expected) == SHA256
    assert target.read_bytes() == CONTENT and files_beside(target) == ["weights.pth"]


def test_cut_off_and_gone_on_within_a_call(server, target, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    server.cuts = 2
    assert download(f"{server.address}/cut/weights.pth", target, RIGHT) == SHA256
    assert [asked for _, asked in server.asked] == ["", "bytes=150000-", "bytes=225000-"]
    assert "cut off after 150000 of 300000 bytes" in caplog.text


def test_cut_off_and_gone_on_in_a_later_call(server, target, monkeypatch):
    server.cuts = ATTEMPTS
    with refused("checkpoints.interrupted", "the same command goes on from there", "281250 of 300000"):
        download(f"{server.address}/cut/weights.pth", target, RIGHT)
    assert files_beside(target) == ["weights.pth.partial", "weights.pth.partial.json"]
    server.asked.clear()
    assert download(f"{server.address}/cut/weights.pth", target, RIGHT) == SHA256
    assert server.asked == [("/cut/weights.pth", "bytes=281250-")] and files_beside(target) == ["weights.pth"]


def test_another_version_of_the_file_starts_again(server, target):
    server.cuts = ATTEMPTS
    with refused("checkpoints.interrupted"):
        download(f"{server.address}/cut/weights.pth", target, Expected())
    server.files["weights.pth"], server.version = CONTENT[::-1], '"2"'
    assert download(f"{server.address}/cut/weights.pth", target, Expected()) != SHA256
    assert target.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_again(server, target, caplog):
    caplog.set_level(logging.INFO, "ppreplk")
    assert download(f"{server.address}/cutplain/weights.pth", target, RIGHT) == SHA256
    assert "does not go on where it stopped" in caplog.text


def test_without_hash_and_version_nothing_is_put_together(server, target):
    assert download(f"{server.address}/cutplain/weights.pth", target, Expected(len(CONTENT))) == SHA256
    assert [asked for _, asked in server.asked] == ["", ""]


def test_a_part_of_something_else_starts_again(server, target):
    assert download(f"{server.address}/other/weights.pth", target, RIGHT) == SHA256
    assert target.read_bytes() == CONTENT and [asked for _, asked in server.asked][-1] == ""


def test_what_was_wrongly_put_together_starts_again(server, target):
    server.cuts = ATTEMPTS
    with refused("checkpoints.interrupted"):
        download(f"{server.address}/cut/weights.pth", target, RIGHT)
    partial = target.with_name("weights.pth.partial")
    partial.write_bytes(bytes(partial.stat().st_size))
    assert download(f"{server.address}/weights.pth", target, RIGHT) == SHA256


def test_a_partial_file_that_is_too_long_starts_again(server, target):
    server.cuts = ATTEMPTS
    with refused("checkpoints.interrupted"):
        download(f"{server.address}/cut/weights.pth", target, RIGHT)
    target.with_name("weights.pth.partial").write_bytes(CONTENT * 2)
    assert download(f"{server.address}/weights.pth", target, Expected(None, SHA256)) == SHA256


def test_a_partial_file_that_was_complete_is_only_checked(server, target):
    server.cuts = ATTEMPTS
    with refused("checkpoints.interrupted"):
        download(f"{server.address}/cut/weights.pth", target, RIGHT)
    target.with_name("weights.pth.partial").write_bytes(CONTENT)
    server.asked.clear()
    assert download(f"{server.address}/weights.pth", target, RIGHT) == SHA256 and not server.asked


@pytest.mark.parametrize(
    "expected, parts",
    [
        (Expected(None, "0" * 8), ["has the SHA-256", "expected 00000000", "not kept"]),
        (Expected(len(CONTENT), "0" * 64), ["expected 000"]),
        (Expected(123), ["300000 bytes, expected 123"]),
    ],
)
def test_another_file_than_expected_is_not_kept(server, target, expected, parts):
    with refused("checkpoints.wrong-download", "/weights.pth", *parts):
        download(f"{server.address}/weights.pth", target, expected)
    assert files_beside(target) == []


def test_a_wrong_size_where_the_server_names_none(server, target):
    with refused("checkpoints.interrupted", "attempts"):
        download(f"{server.address}/unsized/weights.pth", target, Expected(400_000, SHA256))


def test_a_web_page_in_its_place(server, target):
    with refused("checkpoints.wrong-download", "web page"):
        download(f"{server.address}/page/weights.pth", target, Expected())
    assert files_beside(target) == []


def test_not_found_is_said_at_once(server, target):
    with refused("checkpoints.refused-download", "404", "/nothing.pth"):
        download(f"{server.address}/nothing.pth", target, RIGHT)
    assert len(server.asked) == 1 and files_beside(target) == []


def test_redirections_in_a_circle_and_to_files(server, target):
    with refused("checkpoints.refused-download", "302"):
        download(f"{server.address}/loop/x", target, RIGHT)
    with refused("checkpoints.refused-download", "file:///etc/hostname"):
        download(f"{server.address}/away/weights.pth", target, RIGHT)


def test_from_https_to_http_is_refused():
    request = module.urllib.request.Request("https://example.org/a.pth")
    with refused("checkpoints.bad-address", "not encrypted", "http://example.org/b.pth"):
        module._Redirections().redirect_request(request, None, 302, "", {}, "http://example.org/b.pth")


def test_a_server_that_stalls(server, target):
    with refused("checkpoints.interrupted", f"after {ATTEMPTS} attempts", "bytes are kept"):
        download(f"{server.address}/stall/weights.pth", target, RIGHT, timeout=0.2)
    assert download(f"{server.address}/weights.pth", target, RIGHT) == SHA256
    assert server.asked[-1][1].startswith("bytes=")


def test_a_process_that_is_killed(server, target):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ppreplk.checkpoints.download import Expected, download\n"
        "download(sys.argv[1], Path(sys.argv[2]), Expected())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.address}/stall/weights.pth", str(target)])
    partial = target.with_name("weights.pth.partial")
    deadline = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    kept = partial.stat().st_size
    assert 0 < kept < len(CONTENT) and not target.exists()
    assert download(f"{server.address}/weights.pth", target, RIGHT) == SHA256
    assert server.asked[-1][1] == f"bytes={kept}-"


def test_a_length_that_is_not_kept(server, target):
    with refused("checkpoints.interrupted", "attempts"):
        download(f"{server.address}/long/weights.pth", target, Expected(None, SHA256))


def test_no_server(target):
    with serving({}) as gone:
        address = gone.address
    with refused("checkpoints.interrupted", "cannot be reached", "nothing was received"):
        download(f"{address}/weights.pth", target, RIGHT)


def test_a_path_that_is_not_ascii(target):
    with serving({"%E9%95%9C%E5%83%8F/weights.pth": CONTENT}) as server:
        assert download(f"{server.address}/镜像/weights.pth", target, RIGHT) == SHA256
        assert download(f"{server.address}/%E9%95%9C%E5%83%8F/weights.pth", target, RIGHT) == SHA256


NO_ADDRESSES = ["ftp://x/y", "file:///etc/passwd", "weights.pth", "https://", "https://a b/c", ""]
NO_HOSTS = ["https://镜像/c", "https://a..b/c", f"https://{'a' * 64}/c", "https://a:99999/c", "https://me:word@a/c"]


@pytest.mark.parametrize("address", NO_ADDRESSES + NO_HOSTS)
def test_not_an_address(target, address):
    with refused("checkpoints.bad-address", repr(address)):
        download(address, target, RIGHT)


def test_too_little_room(server, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(10, 0, 299_999))
    with refused("checkpoints.no-space", "300000 bytes are to come", "room for 299999"):
        download(f"{server.address}/weights.pth", target, RIGHT)


def test_a_disk_that_is_full_in_the_middle(server, target):
    """A limit on the size of files stands in for it; Linux answers with another error number."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ppreplk.checkpoints.download import Expected, download\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    download(sys.argv[1], Path(sys.argv[2]), Expected())\n"
        "except ValueError as error:\n"
        "    print(error.code, error)\n"
    )
    command = [sys.executable, "-c", code, f"{server.address}/weights.pth", str(target)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("checkpoints.cannot-write") and "100000 bytes are kept" in process.stdout
    assert download(f"{server.address}/weights.pth", target, RIGHT) == SHA256
    assert server.asked[-1][1] == "bytes=100000-"


def test_a_disk_error_is_one_line(server, target, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_flush", fail)
    with refused("checkpoints.cannot-write", "No space left on device"):
        download(f"{server.address}/weights.pth", target, RIGHT)


def test_no_folder(server, tmp_path):
    with refused("checkpoints.cannot-write", "No such file or directory"):
        download(f"{server.address}/weights.pth", tmp_path / "none" / "weights.pth", RIGHT)

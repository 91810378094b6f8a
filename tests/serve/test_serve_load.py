"""Many clients at once: every answer right, and what it costs."""

import http.client
import threading
import time

import numpy as np
import pytest
from services import PROGRAM, need_packages, picture
from test_serve_command import started

need_packages()
SIZES = [(8, 8), (40, 30), (200, 150), (640, 480), (1600, 1200)]


class Clients:
    """Clients that ask for as long as they are told to, and compare every answer."""

    def __init__(self, url: str, expected):
        self.host = url.split("/")[2]
        self.files = [file for file, _ in expected]
        self.expected = [prediction for _, prediction in expected]
        self.times: list[float] = []
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def run(self, count: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._work, args=(number, until)) for number in range(count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _work(self, number: int, until: float) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection(self.host, timeout=60)
        while time.monotonic() < until:
            index = int(rng.integers(len(self.files)))
            start = time.perf_counter()
            connection.request("POST", "/predict", self.files[index], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            body = response.read()
            seconds = time.perf_counter() - start
            with self._lock:
                self.times.append(seconds)
                if problem := self._problem(response.status, body, index):
                    self.failures.append(problem)
        connection.close()

    def _problem(self, status: int, body: bytes, index: int) -> str:
        import json

        if status != 200:
            return f"{status} {body[:200]!r}"
        (shown,) = json.loads(body)["predictions"]
        expected = self.expected[index]
        is_right = shown["class_ids"] == expected.class_ids
        is_near = np.allclose(shown["scores"], expected.scores, rtol=0, atol=2e-5)
        return "" if is_right and is_near else f"{shown} instead of {expected}"

    def report(self, name: str, seconds: float) -> str:
        p50, p99 = np.percentile(self.times, [50, 99]) * 1000
        rate = len(self.times) / seconds
        return f"{name}: {len(self.times)} requests, {rate:.0f} a second, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def values(url: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def load(url: str, predictor, count: int, seconds: float) -> str:
    """Let clients ask. Returns a line about it, after checking every answer."""
    files = [picture(seed, size, "JPEG") for seed, size in enumerate(SIZES * 2)]
    clients = Clients(url, list(zip(files, predictor(files, batch_size=1))))
    before = values(url)
    clients.run(count, seconds)
    after = values(url)
    assert clients.failures == []
    assert after["ppreplk_requests_in_flight"] == after["ppreplk_queue_images"] == after["ppreplk_body_bytes"] == 0
    grown = {
        name: (after[f"{name}_resident_memory_bytes"] - before[f"{name}_resident_memory_bytes"]) / 1e6
        for name in ("process", "ppreplk_program")
    }
    images = after["ppreplk_batch_images_sum"] - before["ppreplk_batch_images_sum"]
    batch = images / (after["ppreplk_batch_images_count"] - before["ppreplk_batch_images_count"])
    memory = f"memory {after['process_resident_memory_bytes'] / 1e6:.0f} MB, {grown['process']:+.0f}"
    program = f"{after['ppreplk_program_resident_memory_bytes'] / 1e6:.0f} MB, {grown['ppreplk_program']:+.0f}"
    name = f"{count} clients"
    return f"{clients.report(name, seconds)}; {batch:.1f} images a batch; {memory}, the program's {program}"


def test_batches_across_requests(predictor):
    with started("--model-dir", PROGRAM) as service:
        load(service.url, predictor, 1, 0.5)
        before = values(service.url)
        load(service.url, predictor, 16, 3)
        after = values(service.url)
        images = after["ppreplk_batch_images_sum"] - before["ppreplk_batch_images_sum"]
        assert images > 1.1 * (after["ppreplk_batch_images_count"] - before["ppreplk_batch_images_count"])


@pytest.mark.slow
def test_a_minute_of_64_clients(predictor):
    with started("--model-dir", PROGRAM) as service:
        load(service.url, predictor, 64, 10)  # everything has been allocated once
        print()
        for count, seconds in ((1, 15), (64, 60), (1, 15)):
            line = load(service.url, predictor, count, seconds)
            print(line)
        grown = values(service.url)["process_resident_memory_bytes"]
        assert grown < 1.5e9

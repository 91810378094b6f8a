"""Requests and answers: right predictions, every kind of body, every refusal with its code and status."""

import json
import logging
import re
import socket
import threading
import time
import zlib

import numpy as np
import pytest
from helpers import peak_memory
from services import chunk, encoded, need_packages, picture, png_bomb, post, read_all, running

need_packages()


def refusal(response) -> tuple[int, str]:
    content = response.json()
    assert content["error"]["message"] and "\n" not in content["error"]["message"]
    return response.status_code, content["error"]["code"]


def assert_predicted(shown: dict, prediction) -> None:
    assert shown["class_ids"] == prediction.class_ids
    assert shown["label_names"] == prediction.label_names
    np.testing.assert_allclose(shown["scores"], prediction.scores, atol=2e-5)  # rounded to five digits


# ----------------------------------------------------------------------------------------------------------------------
# What is served


def test_every_kind_of_body_gives_what_the_predictor_gives(client, predictor):
    files = [picture(0), picture(1, (300, 200), "JPEG"), picture(2, (33, 65), "WEBP")]
    expected = predictor(files, topk=3)
    texts = [encoded(files[0]), f"data:image/jpeg;base64,{encoded(files[1])}", encoded(files[2])[:50] + "\n"]
    texts[2] += encoded(files[2])[50:]
    form = [("files", (f"{index}.x", file)) for index, file in enumerate(files)]
    answers = [
        client.post("/predict", json={"images": texts, "topk": 3}),
        client.post("/predict", files=form, data={"topk": 3}),
        client.post("/predict?topk=3", files=[("a", ("图.png", file)) for file in files]),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        shown = answer.json()["predictions"]
        assert [each["index"] for each in shown] == [0, 1, 2]
        for one, prediction in zip(shown, expected):
            assert_predicted(one, prediction)
    assert [each["file_name"] for each in answers[1].json()["predictions"]] == ["0.x", "1.x", "2.x"]
    assert answers[2].json()["predictions"][0]["file_name"] == "图.png"
    for file, prediction in zip(files, expected):
        for kind in ("image/png", "application/octet-stream", "image/x; q=1"):
            answer = client.post("/predict?topk=3", content=file, headers={"content-type": kind})
            assert_predicted(answer.json()["predictions"][0], prediction)


def test_topk_is_what_was_exported_unless_given(client, predictor):
    body = {"images": [encoded(picture())]}
    assert len(client.post("/predict", json=body).json()["predictions"][0]["class_ids"]) == predictor.topk == 2
    assert len(client.post("/predict", json={**body, "topk": 1}).json()["predictions"][0]["class_ids"]) == 1
    assert len(client.post("/predict", json={**body, "topk": 1000}).json()["predictions"][0]["class_ids"]) == 3


def test_a_broken_image_is_named_and_the_others_are_answered(client, predictor):
    files = [picture(0), b"GIF89a broken", picture(1), b"nothing"]
    answer = client.post("/predict", files=[("f", ("x", file)) for file in files])
    content = answer.json()
    assert answer.status_code == 422
    assert [each["index"] for each in content["errors"]] == [1, 3]
    assert content["error"] == content["errors"][0]
    assert content["error"]["message"].startswith("images[1]: ")
    assert content["predictions"][1] is None and content["predictions"][3] is None
    assert_predicted(content["predictions"][0], predictor(files[0])[0])
    assert_predicted(content["predictions"][2], predictor(files[2])[0])


def test_an_image_that_the_program_refuses_does_not_cost_the_others(predictor):
    import httpx

    from ppreplk.serve.limits import Limits
    from ppreplk.utils.errors import UserError

    class Particular:
        """Refuses images of another shape than the one it was exported for."""

        topk = 2

        def prepare(self, image, name):
            prepared = predictor.prepare(image, name)
            return prepared[:, :8] if image == other else prepared

        def classify(self, names, images, topk):
            if images[0].shape[1] == 8:
                raise UserError("expected another shape", code="deploy.bad-images")
            return predictor.classify(names, images, topk)

    other = picture(1)
    with running(Particular(), Limits()) as service:
        answer = httpx.post(f"{service.url}predict", json={"images": [encoded(other), GOOD]})
    assert refusal(answer) == (422, "deploy.bad-images")
    assert answer.json()["error"]["index"] == 0 and answer.json()["predictions"][0] is None
    assert_predicted(answer.json()["predictions"][1], predictor(picture())[0])


def test_what_it_says_of_itself(client):
    assert client.get("/health").json() == {"status": "ok"}
    info = client.get("/info").json()
    assert info["field"] is False and info["limits"]["files"] == 4
    client.post("/predict", json={"images": [encoded(picture())]})
    client.post("/predict", json={"images": ["x"]})
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    assert float(values['ppreplk_requests_total{path="/predict",status="200"}']) >= 1
    assert float(values['ppreplk_errors_total{code="serve.bad-base64"}']) >= 1
    assert float(values["ppreplk_images_total"]) >= 1
    assert float(values["ppreplk_queue_images"]) == float(values["ppreplk_body_bytes"]) == 0
    assert float(values["process_resident_memory_bytes"]) > 1e6
    for line in metrics.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [0-9.e+-]+', line), line


def test_an_answer_does_not_wait_for_the_network(client):
    """A second small packet is sent at once, instead of after the 40 ms in which the first one is acknowledged."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        client.get("/health")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    addresses = re.findall(r"https?://[^\s'\"]+", page.text)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # a namespace
    assert not re.search(r'\sstyle="|\son\w+="', page.text)  # the policy forbids both


def test_the_page_has_every_text_in_both_languages(client):
    text = client.get("/").text
    english, chinese = re.search(r"en: \{(.*?)\n  \},\n  zh: \{(.*?)\n  \},", text, flags=re.S).groups()
    keys = [re.findall(r'(?:^|, |\s)"?([\w.-]+)"?: "', block) for block in (english, chinese)]
    assert keys[0] == keys[1] and len(keys[0]) > 20
    assert set(re.findall(r'data-text="(\w+)"', text)) <= set(keys[0])


# ----------------------------------------------------------------------------------------------------------------------
# What is refused

GOOD = encoded(picture())
BODIES = {
    "no JSON": (b"{", 400, "serve.bad-json"),
    "a list": (b"[]", 400, "serve.bad-json"),
    "not a number": (b'{"images": [NaN]}', 400, "serve.bad-json"),
    "a long number": (b'{"topk": ' + b"9" * 100_000 + b"}", 400, "serve.bad-json"),
    "deep": (b"[" * 50_000, 400, "serve.bad-json"),
    "not UTF-8": (b'{"images": ["\xff"]}', 400, "serve.bad-json"),
    "a lone surrogate": (b'{"images": ["\\ud800"]}', 400, "serve.bad-base64"),
    "an unknown key": (b'{"images": [], "url": "x"}', 400, "serve.unknown-key"),
    "no images": (b"{}", 400, "serve.bad-images"),
    "an empty list": (b'{"images": []}', 400, "serve.no-images"),
    "a number as image": (b'{"images": [1]}', 400, "serve.bad-images"),
    "not base64": (b'{"images": ["@@"]}', 400, "serve.bad-base64"),
    "an address": (b'{"images": ["http://127.0.0.1/x.png"]}', 400, "serve.no-addresses"),
    "an address of a file": (b'{"images": ["file:///etc/passwd"]}', 400, "serve.no-addresses"),
    "another data address": (b'{"images": ["data:text/plain,x"]}', 400, "serve.bad-base64"),
    "an empty image": (b'{"images": [""]}', 422, "serve.bad-image"),
    "topk 0": (json.dumps({"images": [GOOD], "topk": 0}).encode(), 400, "serve.bad-topk"),
    "topk true": (json.dumps({"images": [GOOD], "topk": True}).encode(), 400, "serve.bad-topk"),
    "topk a text": (json.dumps({"images": [GOOD], "topk": "²"}).encode(), 400, "serve.bad-topk"),
    "too many images": (json.dumps({"images": [GOOD] * 5}).encode(), 413, "serve.too-many-files"),
    "very many images": (json.dumps({"images": [""] * 50_000}).encode(), 413, "serve.too-many-files"),
    "many values": (b'{"images": [' + b"1," * 100_000 + b"1]}", 400, "serve.bad-json"),
}


@pytest.mark.parametrize("name", BODIES)
def test_broken_json(client, name):
    body, status, code = BODIES[name]
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert refusal(response) == (status, code)


BOUNDARY = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
FORMS = {
    "no boundary": ("multipart/form-data", b"", 400, "serve.bad-form"),
    "empty": (BOUNDARY, b"", 400, "serve.bad-form"),
    "another boundary": (BOUNDARY, b"--y\r\n\r\n--y--\r\n", 400, "serve.bad-form"),
    "cut off": (BOUNDARY, PART + b"abc", 400, "serve.bad-form"),
    "no files": (BOUNDARY, b"--x--\r\n", 400, "serve.no-images"),
    "no disposition": (BOUNDARY, b"--x\r\nA: b\r\n\r\nabc\r\n--x--\r\n", 400, "serve.bad-form"),
    "a bad header": (BOUNDARY, b"--x\r\n\x00\x00\r\n\r\nabc\r\n--x--\r\n", 400, "serve.bad-form"),
    "a field as image": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\nabc\r\n--x--\r\n',
        400,
        "serve.bad-form",
    ),
    "an unknown field": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="url"\r\n\r\nabc\r\n--x--\r\n',
        400,
        "serve.unknown-key",
    ),
    "a long field": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="topk"\r\n\r\n' + b"1" * 5000 + b"\r\n--x--\r\n",
        400,
        "serve.bad-form",
    ),
    "many files": (BOUNDARY, (PART + b"\r\n") * 100 + b"--x--\r\n", 413, "serve.too-many-files"),
    "many fields": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="topk"\r\n\r\n1\r\n' * 100 + b"--x--\r\n",
        400,
        "serve.bad-form",
    ),
    "a long header": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="' + b";" * 100_000 + b"\r\n\r\nabc\r\n--x--\r\n",
        400,
        "serve.bad-form",
    ),
    "many headers": (
        BOUNDARY,
        b'--x\r\nContent-Disposition: form-data; name="f"\r\n' + b"a:b\r\n" * 40_000 + b"\r\nabc\r\n--x--\r\n",
        400,
        "serve.bad-form",
    ),
    "a long type": (f'{BOUNDARY}; a="' + ";" * 50_000, PART + b"abc\r\n--x--\r\n", 400, "serve.bad-form"),
    "not an image": (BOUNDARY, PART + b"abc\r\n--x--\r\n", 422, "serve.bad-image"),
}


@pytest.mark.parametrize("name", FORMS)
def test_broken_forms(client, name):
    kind, body, status, code = FORMS[name]
    start = time.monotonic()
    assert refusal(client.post("/predict", content=body, headers={"content-type": kind})) == (status, code)
    assert time.monotonic() - start < 2


def test_other_bodies_paths_and_methods(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = client.post("/predict", content=b"abc", headers={"content-type": kind})
        assert refusal(response) == (415, "serve.bad-type")
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    assert refusal(client.post("/predict", content=b"abc", headers=packed)) == (415, "serve.bad-type")
    assert refusal(client.get("/nothing")) == (404, "serve.unknown-path")
    assert refusal(client.post("/predict/", content=b"")) == (404, "serve.unknown-path")
    assert refusal(client.get("/predict")) == (405, "serve.bad-method")
    assert refusal(client.post("/field", content=picture(), headers={"content-type": "image/png"})) == (
        404,
        "serve.no-weights",
    )


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "0.0.0.0"])
def test_a_page_that_gives_its_own_name_our_address_reads_nothing(client, host):
    assert refusal(client.get("/info", headers={"host": host})) == (421, "serve.wrong-host")


@pytest.mark.parametrize("site, status", [("cross-site", 403), ("same-origin", 200), ("none", 200)])
def test_a_page_of_another_site_gets_nothing_computed(client, site, status):
    headers = {"content-type": "image/png", "sec-fetch-site": site}
    response = client.post("/predict", content=picture(), headers=headers)
    assert response.status_code == status
    assert status == 200 or refusal(response) == (403, "serve.cross-site")
    assert client.get("/", headers=headers).status_code == 200  # somebody who follows a link


def test_names_that_are_allowed(predictor):
    import httpx

    from ppreplk.serve.limits import Limits

    with running(predictor, Limits(), names=["Here.Example"]) as service:
        assert httpx.get(f"{service.url}health", headers={"host": "here.example:80"}).status_code == 200
        assert httpx.get(f"{service.url}health", headers={"host": "there.example"}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1", "[::1]:8000", "127.1.2.3"])
def test_names_of_this_machine(client, host):
    assert client.get("/health", headers={"host": host}).status_code == 200


# ----------------------------------------------------------------------------------------------------------------------
# Bombs, floods, slow clients


@pytest.mark.parametrize("size", [(1001, 1000), (30_000, 30_000), (2_000_000_000, 1), (65_000, 65_000)])
def test_bombs_are_refused_by_their_header(client, size):
    before = peak_memory()
    response = client.post("/predict", content=png_bomb(*size), headers={"content-type": "image/png"})
    assert refusal(response) == (413, "serve.too-many-pixels")
    assert peak_memory() - before < 20 << 20


def test_text_bombs_and_scans(client):
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))
    data = picture()
    bomb = data[:33] + text + data[33:]
    before = peak_memory()
    assert refusal(client.post("/predict", content=bomb, headers={"content-type": "image/png"}))[0] == 422
    assert peak_memory() - before < 40 << 20
    scans = picture(kind="JPEG")[:-2] + b"\xff\xda\x00\x08" * 200 + b"\xff\xd9"
    assert refusal(client.post("/predict", content=scans, headers={"content-type": "image/jpeg"})) == (
        422,
        "serve.bad-image",
    )


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "PDF", "EPS"])
def test_rare_formats_are_not_read(client, kind):
    data = picture(kind=kind)
    assert refusal(client.post("/predict", content=data, headers={"content-type": "image/x"}))[0] == 422


def flood(service, head: str, piece: bytes, total: int) -> tuple[int, bytes]:
    """Send until the other side stops reading. Returns how many bytes it took, and its answer."""
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(head.encode())
        try:
            while sent < total:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        return sent, read_all(connection)


@pytest.mark.parametrize("framing", ["Content-Length: 1073741824", "Transfer-Encoding: chunked"])
def test_a_gigabyte_is_cut_off_and_memory_stays_flat(service, framing):
    piece = bytes(1 << 20)
    if framing.startswith("Transfer"):
        piece = b"100000\r\n" + piece + b"\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{framing}\r\n\r\n"
    before, start = peak_memory(), time.monotonic()
    _, answer = flood(service, head, piece, 1 << 30)
    assert peak_memory() - before < 30 << 20
    assert time.monotonic() - start < 8
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")  # the answer may be lost on a broken connection


def test_a_polite_client_reads_why_its_gigabyte_is_refused(service):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1073741824\r\n"
    for more in ("", "Expect: 100-continue\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
            connection.sendall(f"{head}{more}\r\n".encode() + (b"" if more else bytes(1 << 20)))
            answer = connection.recv(65536)
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in answer
        assert b"serve.too-large" in answer and b"connection: close" in answer


def test_a_slow_body(service):
    data = picture()
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(post(data, "image/png")[: -len(data)])
        for byte in data[:12]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"serve.too-slow" in answer
    assert 1.5 < time.monotonic() - start < 8


@pytest.mark.parametrize("head", [b"", b"POST /predict HTT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"])
def test_a_slow_head(service, head):
    start = time.monotonic()
    answer = service.send(head, 15)
    assert time.monotonic() - start < 8
    assert answer.count(b"HTTP/1.1 ") == (1 if b"\r\n\r\n" in head else 0)


def test_a_client_that_leaves_in_the_middle(service, client):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
            connection.sendall(post(picture(), "image/png")[:-50])
    deadline = time.monotonic() + 5
    while service.service.in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.service.in_flight == service.service.memory.used == 0
    assert client.get("/health").status_code == 200


def test_one_request_too_many(service, client):
    """Sixteen requests may be served at once: with sixteen half-sent ones, the next is refused at once."""
    waiting = [socket.create_connection(("127.0.0.1", service.port), 10) for _ in range(16)]
    try:
        for each in waiting:
            each.sendall(post(picture(), "image/png")[:-50])
        deadline = time.monotonic() + 5
        while service.service.in_flight < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        response = client.post("/predict", content=picture(), headers={"content-type": "image/png"})
        assert refusal(response) == (503, "serve.busy")
        assert client.get("/health").status_code == 200
    finally:
        for each in waiting:
            each.close()


def test_what_is_no_http(service, client):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 100_000, b"A" * 100_000):
        answer = service.send(data, 5)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), data[:20]
    assert client.get("/health").status_code == 200


def test_broken_requests_of_all_kinds(service, client):
    broken_requests(service, client, 300)


@pytest.mark.slow
def test_ten_thousand_broken_requests(service, client):
    broken_requests(service, client, 500)  # everything has been allocated once
    before = peak_memory()
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged
    try:
        broken_requests(service, client, 10_000)
    finally:
        logging.disable(logging.NOTSET)
    grown = peak_memory() - before
    print(f"\n10,000 broken requests: peak memory +{grown / 1e6:.1f} MB")
    assert grown < 20 << 20


def broken_requests(service, client, count: int) -> None:
    """Requests with bytes changed, lost or added. Every one is answered, most with an error, and none with a defect."""
    good = [
        post(picture(1), "image/png"),
        post(json.dumps({"images": [GOOD], "topk": 2}).encode(), "application/json"),
        post(PART + picture(2, kind="JPEG") + b"\r\n--x--\r\n", BOUNDARY),
        post(PART + picture(3, kind="GIF") + b"\r\n--x--\r\n", BOUNDARY),
        post(picture(4, kind="TIFF"), "image/tiff"),
        post(picture(5, kind="WEBP"), "image/webp"),
    ]
    statuses: dict[bytes, int] = {}
    lock = threading.Lock()

    def work(share: range) -> None:
        for index in share:
            data, is_cut_off = mutate(good[index % len(good)], np.random.default_rng([count, index]))
            with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
                try:
                    connection.sendall(data)
                    if is_cut_off:
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                answer = read_all(connection)
            with lock:
                status = answer[9:12]
                statuses[status] = statuses.get(status, 0) + 1

    threads = [threading.Thread(target=work, args=(range(number, count, 12),)) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    print(f"\n{count} broken requests, answers by status: {dict(sorted(statuses.items()))}")
    assert b"500" not in statuses, statuses
    assert sum(statuses.values()) == count
    assert sum(number for status, number in statuses.items() if status.startswith(b"4")) > count / 3
    assert client.post("/predict", json={"images": [GOOD]}).status_code == 200
    assert service.service.in_flight == service.service.memory.used == 0


def mutate(data: bytes, rng) -> tuple[bytes, bool]:
    """A broken request, and whether its end is missing."""
    head_end = data.index(b"\r\n\r\n") + 4
    head, body = bytearray(data[:head_end]), bytearray(data[head_end:])
    kind = rng.integers(6)
    if kind == 0:  # bytes of the head
        for _ in range(rng.integers(1, 4)):
            head[rng.integers(len(head))] = rng.integers(256)
    elif kind == 1:  # a body that is cut off, with a length that fits
        body = body[: rng.integers(len(body))]
    elif kind == 2:  # the same with a length that does not
        return bytes(head + body[: rng.integers(len(body))]), True
    elif kind == 3:  # a part is missing
        start = rng.integers(len(body))
        del body[start : start + rng.integers(1, 200)]
    else:
        for _ in range(rng.integers(1, 30)):
            body[rng.integers(min(len(body), 400) if kind == 4 else len(body))] = rng.integers(256)
    text = bytes(head)
    if kind != 0:
        text = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), text)
    return text + bytes(body), False

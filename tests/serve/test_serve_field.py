"""Receptive fields over an image."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from services import CHECKPOINT, PROGRAM, encoded, need_packages, picture, running

from ppreplk.deploy.inference_yml import read_description

need_packages()


@pytest.fixture(scope="module")
def field():
    from ppreplk.serve.field import ReceptiveField

    return ReceptiveField(str(CHECKPOINT), read_description(PROGRAM).transforms)


def pixels(address: str) -> np.ndarray:
    head, _, text = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_map_lies_over_what_the_network_sees(field, predictor):
    data = picture(0, (80, 50))
    answer = field(data)
    assert (answer["height"], answer["width"]) == (32, 32)
    assert pixels(answer["map"]).shape == (32, 32) and pixels(answer["map"]).max() == 255
    view = pixels(answer["view"])
    seen = (view.astype(np.float64) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(seen.transpose(2, 0, 1), predictor.prepare(data), atol=1e-5)
    assert [area["share"] for area in answer["areas"]] == [0.2, 0.3, 0.5, 0.99]
    sides = [area["side"] for area in answer["areas"]]
    assert sides == sorted(sides) and sides[-1] <= 32


def test_it_is_that_of_the_program(field, predictor):
    image = predictor.prepare(picture())
    field.check(image, predictor.run(image[None])[0])


def test_over_http(field, predictor):
    import httpx

    from ppreplk.serve.limits import Limits

    limits = Limits(bytes=300_000, pixels=1_000_000, files=4)
    with running(predictor, limits, field=field) as service, httpx.Client(base_url=service.url, timeout=30) as client:
        assert client.get("/info").json()["field"] is True
        data = picture(3)
        answer = client.post("/field", files={"f": ("x.png", data)})
        assert answer.status_code == 200
        assert answer.json()["map"] == field(data)["map"]
        two = client.post("/field", json={"images": [encoded(data)] * 2})
        assert (two.status_code, two.json()["error"]["code"]) == (400, "serve.too-many-files")
        broken = client.post("/field", json={"images": [encoded(data[:80])]})
        assert broken.status_code == 422
        assert service.service.in_flight == service.service.fields_waiting == 0

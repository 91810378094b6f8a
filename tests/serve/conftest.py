"""Fixtures of the service's tests."""

import pytest
from services import PROGRAM, need_packages, running


@pytest.fixture(scope="session")
def predictor():
    import ppreplk

    return ppreplk.Predictor(PROGRAM, threads=1)


@pytest.fixture(scope="module")
def service(predictor):
    """A service with small limits, in this process."""
    need_packages()
    from ppreplk.serve.limits import Limits

    limits = Limits(bytes=300_000, pixels=1_000_000, files=4, concurrency=16, queue=16, timeout=2.0)
    with running(predictor, limits, max_batch=8) as answering:
        yield answering


@pytest.fixture
def client(service):
    import httpx

    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client

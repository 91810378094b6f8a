"""Fixtures of the export tests."""

import paddle
import pytest
from exports import config
from helpers import randomise_batch_norms

from ppreplk.models.arch import build_network


@pytest.fixture
def project(colour_project, monkeypatch):
    """The colour project with weights whose every BN statistic is random."""
    monkeypatch.chdir(colour_project)
    paddle.seed(0)
    model = build_network(config().Arch)
    randomise_batch_norms(model)
    paddle.save(model.state_dict(), "weights.pdparams")
    return colour_project

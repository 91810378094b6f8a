"""Fixtures of the training tests."""

import pytest


@pytest.fixture
def project(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    monkeypatch.setattr("ppreplk.training.recorder.draw_curves", lambda *arguments: None)  # a quarter of a second each
    return colour_project

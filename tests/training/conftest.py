"""Fixtures of the training tests."""

import pytest


@pytest.fixture
def project(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    return colour_project

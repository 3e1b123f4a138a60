"""Fixtures for the tests of the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pages import databases

# Real servers are started as in ``tests/servers``.
sys.path.append(str(Path(__file__).parents[1] / "servers"))


@pytest.fixture(autouse=True)
def _close_databases():
    yield
    while databases:
        app, db = databases.pop()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()

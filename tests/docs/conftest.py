"""Fixtures for the tests of the documentation."""

from __future__ import annotations

import pytest
from pages import databases


@pytest.fixture(autouse=True)
def _close_databases():
    yield
    while databases:
        app, db = databases.pop()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()

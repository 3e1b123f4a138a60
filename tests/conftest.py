"""Fixtures for all tests; what they start is in ``support.py``."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from flask import has_app_context
from support import GeventServer
from support import serving
from support import ThreadServer

from flask_websockets import has_socket_context
from flask_websockets import WebSockets

if os.environ.get("CI"):
    # A program that a test needs and does not find is a failure, no reason to skip.
    os.environ["TESTS_REQUIRE_ALL"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and all that is started by it:
    # servers would not hear that of a test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the collection after each test look at what the test made, not at all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def app() -> Flask:
    app = Flask("tests")
    app.secret_key = "not a secret"
    # Thousands of apps would have a descriptor and a thread each.
    app.config["WEBSOCKETS_CONTROL"] = False
    return app


@pytest.fixture
def sockets(app: Flask) -> WebSockets:
    """The endpoint at "/" of the app."""
    return WebSockets(app)


@pytest.fixture
def closes(sockets: WebSockets) -> list[tuple[int, str]]:
    """What ``on_close`` was given, each time."""
    closes: list[tuple[int, str]] = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    return closes


@pytest.fixture(params=["threads", "gevent"])
def serve(request: pytest.FixtureRequest) -> t.Iterator[t.Callable[[Flask], t.Any]]:
    """Start a server for an app; each test runs on both drivers."""
    with serving({"threads": ThreadServer, "gevent": GeventServer}[request.param]) as start:
        yield start


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Path]:
    """A folder for control sockets; its name is short, as theirs may not be long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("TMPDIR", folder)  # where those of other tests are otherwise
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def log(app: Flask) -> t.Iterator[list[logging.LogRecord]]:
    """What the app logs, instead of the terminal."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    app.logger.handlers[:] = [handler]
    app.logger.propagate = False
    yield records
    app.logger.handlers[:] = []
    records.clear()  # a traceback holds what its frames held, sockets too


@pytest.fixture(autouse=True)
def _no_context_is_left() -> t.Iterator[None]:
    yield
    gc.collect()  # so that a ResourceWarning belongs to the test that caused it
    assert not has_socket_context()


@pytest.fixture(autouse=True)
def _no_app_context_is_pushed(request: pytest.FixtureRequest) -> t.Iterator[None]:
    # pytest-flask pushes a context for each test that has an app; ours must not see it.
    yield
    if "app" not in request.fixturenames:
        assert not has_app_context()

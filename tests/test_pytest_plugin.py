"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = """
import pytest
from flask import Flask, session
from flask_websockets import WebSockets, ws

def make_app():
    app = Flask(__name__)
    app.secret_key = "not a secret"
    app.testing = True
    sockets = WebSockets(app, path="/chat/<room>")
    app.closes = []

    @app.post("/login")
    def login():
        session["name"] = "Ada"
        return ""

    @sockets.on_open
    def enter(room):
        ws.join(room)

    @sockets.on_message
    def say(message, room):
        if message == "fail":
            raise LookupError("of a handler")
        sockets.broadcast(f"{session.get('name')}: {message}", to=room)

    @sockets.on_close
    def leave(code):
        app.closes.append(code)
        if code == 4999:
            raise LookupError("of on_close")

    return app
"""
WITH_PYTEST_FLASK = """
import pytest
from program import make_app

@pytest.fixture(scope="session")
def app():
    return make_app()
"""
WITHOUT = """
import pytest
from program import make_app

@pytest.fixture
def application():
    return make_app()

@pytest.fixture
def client(application):
    return application.test_client()
"""
GEVENT = "from gevent import monkey\n\nmonkey.patch_all()\n" + WITHOUT
PYTEST_FLASK = "pytest_flask.plugin"
TALK = """
def test_talk(client, websocket):
    client.post("/login")
    one, two = websocket("/chat/red"), websocket("/chat/red", subprotocols=["v1"])
    stranger = websocket("/chat/red", client=client.application.test_client())
    one.send("hi")
    assert [one.receive(), two.receive(), stranger.receive()] == ["Ada: hi"] * 3
    stranger.send("ho")
    assert two.receive() == "None: ho"

closes = []

def test_open(client, websocket):
    websocket("/chat/red")
    websocket("/chat/red")
    closes.append(client.application.closes)
    closes[0].clear()

def test_closed():
    assert closes == [[1000, 1000]]

def test_close_early(client, websocket):
    with websocket("/chat/red"):
        pass
    websocket("/chat/red").close(4000)
    assert client.application.closes[-2:] == [1000, 4000]
"""


def run(folder: Path, files: dict[str, str], *plugins: str) -> tuple[dict[str, int], str]:
    """Run pytest on *files*: how many tests had which outcome, and what it printed."""
    for name, text in {"program.py": APP, **files}.items():
        (folder / name).write_text(text)
    options = ["-W", "error", "-W", "ignore::DeprecationWarning:pytest_flask"]
    for plugin in ("no:cacheprovider", "pytest_flask_websockets", *plugins):
        options += ["-p", plugin]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        # Only what is named: others take most of the time that pytest needs to begin.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    words = done.stdout.splitlines()[-1].strip("= ").partition(" in ")[0].split(", ")
    return {kind: int(number) for number, kind in map(str.split, words)}, done.stdout


@pytest.mark.parametrize(
    ("conftest", "plugins"),
    [(WITH_PYTEST_FLASK, [PYTEST_FLASK]), (WITHOUT, [PYTEST_FLASK]), (WITHOUT, []), (GEVENT, [])],
    ids=["pytest-flask", "own client", "no pytest-flask", "gevent"],
)
def test_the_fixture(tmp_path: Path, conftest: str, plugins: list[str]) -> None:
    outcomes, output = run(tmp_path, {"conftest.py": conftest, "test_it.py": TALK}, *plugins)
    assert outcomes == {"passed": 4}, output


def test_what_fails_says_why(tmp_path: Path) -> None:
    text = """
def test_handler(websocket):
    websocket("/chat/red").send("fail")

def test_receive(websocket):
    socket = websocket("/chat/red")
    socket.receive(timeout=0.01)

def test_closing(client, websocket):
    @client.application.teardown_appcontext
    def fail(error):
        if client.application.closes:
            raise LookupError("at the end")
    websocket("/chat/red")
"""
    outcomes, output = run(tmp_path, {"conftest.py": WITHOUT, "test_it.py": text})
    assert outcomes == {"failed": 2, "passed": 1, "error": 1}, output
    assert 'raise LookupError("of a handler")' in output
    assert "AssertionError: no message came within 0.01 s" in output
    # What is shown is the test's own line, and no line of the client.
    assert "flask_websockets/testing.py" not in output


def test_it_imports_nothing_for_those_who_do_not_use_it(tmp_path: Path) -> None:
    conftest = """
import sys

loaded = {"flask", "flask_websockets", "gevent", "greenlet", "ssl"} & set(sys.modules)
assert not loaded, loaded
"""
    text = "def test_it(websocket):\n    pass\n"
    outcomes, output = run(tmp_path, {"conftest.py": conftest, "test_it.py": text})
    assert outcomes == {"error": 1}, output
    assert "fixture 'client' not found" in output


def test_live_server_beside_it(tmp_path: Path) -> None:
    text = """
import pytest
import websocket as websocket_client

@pytest.mark.usefixtures("live_server")
def test_live(live_server, websocket):
    url = live_server.url("/chat/red").replace("http", "ws", 1)
    real = websocket_client.create_connection(url, timeout=10)
    socket = websocket("/chat/red")
    for one, receive in ((real, real.recv), (socket, socket.receive)):
        one.send("hi")
        assert receive() == "None: hi"
    real.close()
"""
    files = {"conftest.py": WITH_PYTEST_FLASK, "test_it.py": text}
    outcomes, output = run(tmp_path, files, PYTEST_FLASK)
    assert outcomes == {"passed": 1}, output


def test_the_entry_point() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    options: dict[str, t.Any] = dict(setup["options.entry_points"])
    assert options["pytest11"].split() == [
        "pytest_flask_websockets",
        "=",
        "pytest_flask_websockets",
    ]
    assert setup["options"]["py_modules"] == "pytest_flask_websockets"

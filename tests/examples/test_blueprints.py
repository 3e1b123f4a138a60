"""Two blueprints: a socket under each prefix, and a view beside one."""

from __future__ import annotations

import json

import pytest
from programs import poll
from programs import Program

BLUEPRINTS = "examples/blueprints/app.py"


@pytest.fixture(params=["itself", "flask run"])
def program(request, start) -> Program:
    if request.param == "itself":
        return start(BLUEPRINTS)
    return start("-m", "flask", "--app", "examples/blueprints/app", "run", "--port", "PORT")


def test_echo_blueprint(program, connect):
    client = connect(program, "/echo/")
    client.send("hello")
    assert client.recv() == "hello"


def test_chat_blueprint(program, connect):
    url = f"ws://127.0.0.1:{program.port}/chat/tea"
    assert json.loads(program.get("/chat/tea")) == {"socket": url, "people": 0}
    ada, bob, stranger = (connect(program, path) for path in ("/chat/tea",) * 2 + ("/chat/milk",))
    poll(lambda: json.loads(program.get("/chat/tea"))["people"] == 2, "both are in the room")
    poll(lambda: json.loads(program.get("/chat/milk"))["people"] == 1, "the stranger is in")
    ada.send("hello")
    assert [ada.recv(), bob.recv()] == ["hello", "hello"]
    stranger.send("alone")
    assert stranger.recv() == "alone"


def test_ctrl_c_ends_it_quietly(start):
    program = start(BLUEPRINTS)
    assert program.get("/chat/tea")  # it serves by then
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port}/chat/tea and stop with Ctrl-C.\n"

"""Tests of the chat, without a server: ``python -m pytest examples/chat``."""

import pytest
from app import app

from flask_websockets.testing import connect


@pytest.fixture
def client():
    app.testing = True  # what a handler raises fails its test
    return app.test_client()


def test_enter_speak_and_leave(client):
    with connect(client, "/chat/tea?name=Ada") as ada:
        assert ada.receive_json() == {"type": "who", "names": ["Ada"], "text": "Ada is here"}
        assert ada.receive_json() == {"type": "you", "name": "Ada"}
        with connect(client, "/chat/tea?name=Bob") as bob:
            assert ada.receive_json()["names"] == ["Ada", "Bob"]
            bob.send_json({"type": "say", "text": "hello"})
            assert ada.receive_json() == {"type": "say", "name": "Bob", "text": "hello"}
        assert ada.receive_json() == {"type": "who", "names": ["Ada"], "text": "Bob has left"}


def test_rooms_do_not_hear_each_other(client):
    with connect(client, "/chat/tea") as tea, connect(client, "/chat/coffee") as coffee:
        list(coffee)  # what it was told when it entered
        tea.send_json({"type": "say", "text": "hello"})
        coffee.receive_nothing()


@pytest.mark.parametrize(
    ("typed", "name"), [("  Ada   L ", "Ada L"), (7, "7"), ("x" * 99, "x" * 30)]
)
def test_names_are_made_tidy(client, typed, name):
    with connect(client, "/chat/tea?name=Bob") as socket:
        list(socket)
        socket.send_json({"type": "name", "name": typed})
        assert socket.receive_json()["text"] == f"Bob is now {name}"
        assert socket.receive_json() == {"type": "you", "name": name}


def test_echo_and_progress(client):
    with connect(client) as socket:
        socket.send("ECHO a b")
        assert socket.receive() == "echo: a b"
        socket.send("COUNT 2")
        assert list(socket) == ["done: 1/2", "done: 2/2"]
        socket.send("COUNT many")
        socket.receive_nothing()

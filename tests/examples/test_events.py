"""A poll: events by name, an answer to those unknown, and its page."""

from __future__ import annotations

import json
import typing as t

import pytest
import websocket
from programs import Program

EVENTS = "examples/events/app.py"


@pytest.fixture(params=["itself", "flask run"])
def program(request, start) -> Program:
    if request.param == "itself":
        return start(EVENTS)
    return start("-m", "flask", "--app", "examples/events/app", "run", "--port", "PORT")


def receive(client: websocket.WebSocket) -> tuple[str, t.Any]:
    message = json.loads(client.recv())
    return message["event"], message["data"]


def emit(client: websocket.WebSocket, event: str, data: t.Any) -> None:
    client.send(json.dumps({"event": event, "data": data}))


def counts(tea: int = 0, coffee: int = 0, water: int = 0) -> tuple[str, t.Any]:
    return "counts", {"tea": tea, "coffee": coffee, "water": water}


def test_vote(program, connect):
    ada = connect(program)
    assert receive(ada) == counts()
    bob = connect(program)
    assert receive(ada) == receive(bob) == counts()
    emit(ada, "vote", "tea")
    assert receive(bob) == counts(tea=1)
    assert [receive(ada), receive(ada)] == [counts(tea=1), ("voted", "tea")]
    emit(ada, "vote", "water")
    assert receive(bob) == counts(water=1)
    ada.close()
    assert receive(bob) == counts()


def test_unknown_events(start, connect):
    client = connect(start(EVENTS))
    assert receive(client) == counts()
    emit(client, "vote", "milk")
    assert receive(client) == ("error", "There is no such choice.")
    for message in ('{"event": "sing"}', '{"data": 1}', "[1]", "null"):
        client.send(message)
        assert receive(client) == ("error", "There is no such event.")
    client.send("no JSON")
    emit(client, "vote", "coffee")
    assert receive(client) == counts(coffee=1)


def test_ctrl_c_ends_the_poll_quietly(start):
    program = start(EVENTS)
    assert program.get()  # it serves by then
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"


def test_poll_in_a_browser(page, start, connect):
    program = start(EVENTS)
    url = f"http://127.0.0.1:{program.port}/"
    page.open(url, 360, 640)
    page.open(url + "?", 760, 420)
    page.wait("$('state').textContent === 'connected'")
    assert "https://" not in program.get()
    ada, bob = connect(program), connect(program)
    emit(ada, "vote", "tea")
    emit(bob, "vote", "coffee")
    page.wait("$('tea').innerText.includes('1') && $('coffee').innerText.includes('1')")
    page.value("$('tea').click()")
    page.wait("$('tea').ariaPressed === 'true' && $('tea').innerText.includes('2')")
    page.screenshot("events")

    program.stop()
    page.wait("$('state').innerText.startsWith('disconnected')")
    start(EVENTS, port=program.port)
    page.wait("$('state').innerText === 'connected'")
    page.wait("$('tea').innerText.includes('1') && $('coffee').innerText.includes('0')")

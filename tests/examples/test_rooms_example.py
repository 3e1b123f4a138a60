"""The chat with several rooms: joining, leaving, one room and everybody, and its page."""

from __future__ import annotations

import json
import typing as t

import pytest
import websocket
from programs import Program

ROOMS = "examples/rooms/app.py"


@pytest.fixture(params=["itself", "flask run"])
def rooms(request, start) -> Program:
    if request.param == "itself":
        return start(ROOMS)
    return start("-m", "flask", "--app", "examples/rooms/app", "run", "--port", "PORT")


def receive(client: websocket.WebSocket) -> dict[str, t.Any]:
    return json.loads(client.recv())


def emit(client: websocket.WebSocket, event: str, **data: str) -> None:
    client.send(json.dumps({"event": event, **data}))


def about(event: str, room: str, name: str, text: str = "") -> dict[str, t.Any]:
    return {"event": event, "room": room, "name": name, "text": text}


def test_rooms_between_two(rooms, connect):
    ada, bob = connect(rooms, "/?name=Ada"), connect(rooms, "/?name=Bob")
    for client, name in ((ada, "Ada"), (bob, "Bob")):
        assert receive(client) == {"event": "connected", "name": name}
        emit(client, "join", room="tea")
        assert receive(client) == about("joined", "tea", name)
    assert receive(ada) == about("joined", "tea", "Bob")
    emit(ada, "join", room="milk")
    assert receive(ada) == about("joined", "milk", "Ada")
    emit(ada, "say", room="milk", text="nobody hears this")
    assert receive(ada) == about("said", "milk", "Ada", "nobody hears this")
    emit(ada, "say", room="tea", text="hello")
    assert receive(bob) == receive(ada) == about("said", "tea", "Ada", "hello")
    emit(bob, "say", room="milk", text="Bob is not in this room")
    emit(bob, "leave", room="tea")
    assert receive(ada) == receive(bob) == about("left", "tea", "Bob")
    # Bob has left once his next message is answered.
    emit(bob, "join", room="hall")
    assert receive(bob) == about("joined", "hall", "Bob")
    emit(ada, "say", room="tea", text="alone now")
    assert receive(ada) == about("said", "tea", "Ada", "alone now")
    emit(ada, "shout", text="all")
    assert receive(bob) == receive(ada) == {"event": "shouted", "name": "Ada", "text": "all"}


def test_who_disconnects_leaves(rooms, connect):
    ada, guest = connect(rooms, "/?name=Ada"), connect(rooms)
    assert receive(ada)["event"] == "connected"
    name = receive(guest)["name"]
    assert name.startswith("guest-")
    emit(ada, "join", room="tea")
    assert receive(ada) == about("joined", "tea", "Ada")
    emit(guest, "join", room="tea")
    assert receive(ada) == about("joined", "tea", name)
    guest.close()
    assert receive(ada) == about("left", "tea", name)


def test_ctrl_c_ends_the_rooms_quietly(start):
    program = start(ROOMS)
    assert program.get()  # it serves by then
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"


def test_rooms_in_a_browser(page, start, connect):
    program = start(ROOMS)
    url = f"http://127.0.0.1:{program.port}/?name=Bob"
    page.open(url, 360, 640)
    page.open(url + "&", 1000, 540)
    page.wait("$('state').textContent === 'connected as Bob'")
    assert "https://" not in program.get()
    page.wait("$('log').innerText.includes('Bob has joined lobby')")
    page.type("room", "kitchen")
    page.wait("$('log').innerText.includes('Bob has joined kitchen')")
    ada = connect(program, "/?name=Ada")
    emit(ada, "join", room="kitchen")
    emit(ada, "say", room="kitchen", text="Is <b>the tea</b> ready?")
    page.wait("$('log').innerText.includes('Is <b>the tea</b> ready?')")
    page.type("text", "In a minute.")
    page.wait("document.querySelector('#log .mine')?.innerText.includes('In a minute.')")
    emit(ada, "shout", text="There will be tea.")
    page.wait("$('log').innerText.includes('Ada to everybody')")
    page.screenshot("rooms")
    page.value("document.querySelector('#rooms button').click()")
    page.wait("$('log').innerText.includes('Bob has left lobby')")

    program.stop()
    page.wait("$('state').innerText.startsWith('disconnected')")
    page.value("$('log').replaceChildren()")
    start(ROOMS, port=program.port)
    page.wait("$('log').innerText === 'Bob has joined kitchen'")
    page.wait("$('rooms').innerText.includes('kitchen')")

"""What the pages of the guide build does what they say."""

from __future__ import annotations

import json
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import websocket
from pages import ROOT
from pages import run_page
from pages import talk


def test_readme_talks(serve):
    messages = ["ECHO hello", b"\x01ab", "COUNT 3"]
    assert talk(serve, "README.rst", "/", *messages) == ["hello", b"ba", "0", "1", "2"]
    assert talk(serve, "README.rst", "/sum", "1", "2") == ["1", "3"]
    said = talk(serve, "README.rst", "/chat/tea?name=Ada", '{"type": "say", "text": "hi"}')
    assert [json.loads(one) for one in said] == [{"name": "Ada", "text": "hi"}]
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        talk(serve, "README.rst", "/chat/staff")


def test_quickstart_talks(serve):
    assert talk(serve, "docs/quickstart.rst", "/games/7/moves", '"a1"') == [
        '{"game": 7, "moved": "a1"}'
    ]


def test_handlers_talk(serve):
    page = "docs/handlers.rst"
    assert talk(
        serve, page, "/games/7", "MOVE 1,2", "MOVE 1,2 ah", "PING", "WHERE", "NOTE a\nb", b"\x01ab"
    ) == [
        "Welcome to game 7.",
        "game 7: 1 across, 2 down, no comment",
        "game 7: 1 across, 2 down, ah",
        "PONG",
        "You are in game 7.",
        "2 lines",
        "2 bytes",
    ]
    messages = ["STATE", "COUNT 2"]
    assert talk(serve, page, "/games/7", *messages, 10_001 * "x")[1:] == [
        '{"game":7,"players":1}\n',
        "0",
        "1",
        "That is too long.",
    ]
    # The loop: its first word, an answer to it, its reply, and the hooks around it.
    client = serve(run_page(ROOT / page)["app"]).connect("/games/7/countdown")
    assert client.recv() == "Welcome to game 7."
    assert client.recv() == "game 7 begins in 3"
    client.send("now")
    assert [client.recv(), client.recv()] == ["go", "Goodbye."]
    assert client.recv_close() == (1000, "")
    crowd = talk(serve, page, "/games/7/crowd", "how many?")
    assert crowd == ["Welcome to game 7.", "1 are here"]
    # The careful one, with what would keep another busy.
    client = serve(run_page(ROOT / page)["careful"]).connect()
    for message, reply in (("one two", "2 words"), ("a" * 100 + "!", "no words")):
        client.send(message)
        assert client.recv() == reply


def test_connection_talks(serve):
    page = "docs/connection.rst"
    assert talk(serve, page, "/", "DELETE", "yes", "REPORT") == [
        "Are you sure?",
        "deleted",
        "this may take a while",
        '{"total": 42}',
    ]
    client = serve(run_page(ROOT / page)["app"]).connect()
    client.send("QUIT")
    assert client.recv_close() == (4000, "as you wish")


def test_handshake_refuses(serve):
    server = serve(run_page(ROOT / "docs/handshake.rst")["app"])
    for path, status in (("/rooms/staff", 403), ("/rooms/closed", 410), ("/private", 401)):
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            server.connect(path)
        assert caught.value.status_code == status
    with pytest.raises(websocket.WebSocketBadStatusException):
        server.connect("/rooms/tea", origin="http://elsewhere.example")
    client = server.connect("/rooms/tea", subprotocols=["chat.v1", "chat.v2"])
    client.send("VERSION")
    assert client.recv() == "chat.v2"
    with pytest.raises(HTTPError) as plain:
        urlopen(server.http("/rooms/tea"), timeout=10)
    with plain.value as response:
        assert response.status == 426
        assert json.load(response)["error"].startswith("This URL serves WebSockets only")


def test_contexts_talk(serve):
    page = "docs/contexts.rst"
    assert talk(serve, page, "/?name=Ada", "NEXT", "NEXT") == ["Ada: 1", "Ada: 2"]
    client = serve(run_page(ROOT / page)["app"]).connect()
    client.send("WORK")
    assert {client.recv(), client.recv()} == {"working on it", "499500 is the sum"}
    client.send("NOTE a")
    client.send("NOTE b")
    assert [client.recv(), client.recv()] == ["1 notes", "2 notes"]
    loop = serve(run_page(ROOT / page)["app"]).connect("/count")
    loop.send("how many")
    assert loop.recv() == "0 notes"

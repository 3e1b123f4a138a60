"""What the page for those who come from the ancestor builds does what it says."""

from __future__ import annotations

from urllib.parse import urlencode
from urllib.request import Request
from urllib.request import urlopen

import pytest
import websocket
from pages import ROOT
from pages import run_page
from pages import talk

PAGE = "docs/coming/ancestor.rst"


def test_coming_ancestor_talks(serve):
    messages = ["ECHO a b", "Ping", '{"type": "say", "text": "hi"}']
    assert talk(serve, PAGE, "/", *messages) == ["a b", "ACK", "ACK", '{"got": "hi"}', "ACK"]


def test_coming_ancestor_notifies_a_visitor(serve):
    server = serve(run_page(ROOT / PAGE)["app"])
    one, other = server.connect(), server.connect()
    cookie = one.getheaders()["set-cookie"].partition(";")[0]
    two = server.connect(cookie=f"theme=dark; {cookie}")
    clients = (one, two, other)
    for client in clients:
        client.send("x")
        assert client.recv() == "ACK"
    data = urlencode({"text": "hello"}).encode()
    with urlopen(Request(server.http("/notify"), data, {"Cookie": cookie}), timeout=10) as response:
        assert response.status == 204
    assert [one.recv(), two.recv()] == ["hello", "hello"]
    other.send("x")
    assert other.recv() == "ACK"


def test_coming_ancestor_has_one_url(serve):
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        talk(serve, PAGE, "/elsewhere")


def test_the_old_echo_works_unchanged(app, sockets, serve):
    @sockets.on_message("^ECHO .*")
    def echo(message):
        _, text = message.split(" ", 1)
        return text

    client = serve(app).connect()
    client.send("ECHO a b")
    assert client.recv() == "a b"


def test_patch_app_run_is_deleted(app):
    from flask_websockets import WebSockets

    with pytest.raises(TypeError, match="patch_app_run"):
        WebSockets(app, patch_app_run=True)

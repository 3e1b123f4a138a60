"""What the page on API Star's component builds does what it says."""

from __future__ import annotations

import json
import re

import pytest
import websocket
from pages import ROOT
from pages import run_page
from support import wait_until

from flask_websockets import CloseCode

PAGE = ROOT / "docs/coming/component.rst"


def test_component_page_plays_ping_pong(serve):
    client = serve(run_page(PAGE)["app"]).connect("/pingpong")
    for count in range(100):
        assert json.loads(client.recv()) == {"ping": count}
        client.send("pong")
    assert json.loads(client.recv()) == {"status": "ok"}
    assert client.recv_close() == (1000, "")


def test_component_page_wants_a_subprotocol(serve):
    server = serve(run_page(PAGE)["app"])
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        server.connect("/protocol")
    assert caught.value.status_code == 400
    assert json.loads(caught.value.resp_body) == {"error": "v1.api.example is required"}
    client = server.connect("/protocol", subprotocols=["v1.api.example"])
    assert client.recv() == client.subprotocol == "v1.api.example"
    assert client.recv_close() == (1000, "")


def test_component_page_tells_the_time_until_the_client_goes(serve, capsys):
    page = run_page(PAGE)
    client = serve(page["app"]).connect("/clock")
    assert re.match(r"\d{4}-\d\d-\d\d ", client.recv())
    client.send("and now?")
    assert client.recv()
    client.close(4001)
    wait_until(lambda: not page["sockets"].clients, "the clock has ended")
    assert "left: 4001\n" in capsys.readouterr().out


def test_component_page_adds_exactly(serve):
    client = serve(run_page(PAGE)["app"]).connect("/sum")
    for number, total in (("0.1", "0.1"), ("0.2", "0.3")):
        client.send(number)
        assert json.loads(client.recv()) == {"total": total}
    client.send("[]")
    assert json.loads(client.recv()) == {"status": "ok"}
    assert client.recv_close() == (1003, "Send numbers.")


def test_component_page_names_close_codes():
    named = re.findall(r"``WS_(\d{4})\w+`` +``CloseCode\.(\w+)``", PAGE.read_text())
    assert len(named) == 8
    for code, name in named:
        assert CloseCode[name] == int(code)

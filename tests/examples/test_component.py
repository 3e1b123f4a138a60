"""An API's sockets: hooks that open and close, JSON both ways, a clock, close codes."""

from __future__ import annotations

import json
import typing as t
from datetime import datetime

import pytest
import websocket
from programs import poll
from programs import Program
from programs import TIMEOUT

COMPONENT = "examples/component/app.py"
PROTOCOL = "v1.api.example"


@pytest.fixture(params=["itself", "flask run"])
def component(request, start, monkeypatch) -> Program:
    monkeypatch.setenv("FLASK_CLOCK_INTERVAL", "0.01")
    if request.param == "itself":
        return start(COMPONENT)
    return start("-m", "flask", "--app", "examples/component/app", "run", "--port", "PORT")


def receive(client: websocket.WebSocket) -> t.Any:
    return json.loads(client.recv())


def close_of(client: websocket.WebSocket) -> tuple[int, str]:
    opcode, data = client.recv_data()
    assert opcode == websocket.ABNF.OPCODE_CLOSE, data
    return int.from_bytes(data[:2], "big"), data[2:].decode()


def test_index_lists_the_sockets(component):
    assert json.loads(component.get()) == {
        "sockets": ["/protocol", "/phases", "/pingpong", "/sum", "/clock"],
        "open": 0,
    }


def test_opened_and_closed_by_themselves(component, connect):
    client = connect(component, "/phases")
    assert receive(client) == {"before_open": "connecting", "now": "connected"}
    assert receive(client) == {"status": "ok"}
    assert close_of(client) == (1000, "")


@pytest.mark.parametrize("offered", [[], ["v2.api.example"]])
def test_a_hook_refuses(component, offered):
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(
            f"ws://127.0.0.1:{component.port}/protocol", timeout=TIMEOUT, subprotocols=offered
        )
    assert caught.value.status_code == 400
    assert json.loads(caught.value.resp_body) == {"error": f"Offer the subprotocol {PROTOCOL}."}


def test_a_hook_accepts(component):
    offered = ["v2.api.example", PROTOCOL]
    client = websocket.create_connection(
        f"ws://127.0.0.1:{component.port}/protocol", timeout=TIMEOUT, subprotocols=offered
    )
    assert client.subprotocol == PROTOCOL
    assert receive(client) == {"offered": offered, "chosen": PROTOCOL}
    assert receive(client) == {"status": "ok"}
    assert close_of(client) == (1000, "")
    client.shutdown()


def test_a_hundred_messages_each_wait_for_one(component, connect):
    client = connect(component, "/pingpong")
    for count in range(100):
        assert receive(client) == {"ping": count}
        client.send("pong")
    assert receive(client) == {"status": "ok"}
    assert close_of(client) == (1000, "Well played.")


def test_a_close_code_by_name(component, connect):
    client = connect(component, "/pingpong")
    assert receive(client) == {"ping": 0}
    client.send("gnip")
    assert receive(client) == {"status": "error"}
    assert close_of(client) == (1008, "A ping wants a pong.")


def test_loads_and_dumps(component, connect):
    client = connect(component, "/sum")
    for number, total in (("0.1", "0.1"), ("0.2", "0.3"), ("-1", "-0.7")):
        client.send(number)
        assert receive(client) == {"total": total}
    client.send("one")
    assert receive(client) == {"status": "error"}
    assert close_of(client) == (1003, "Send numbers.")


def test_clock_until_the_client_goes(component, connect):
    client = connect(component, "/clock")
    times = [datetime.fromisoformat(receive(client)["time"]) for _ in range(3)]
    assert times == sorted(times)
    client.close(1001)
    again = connect(component, "/clock")
    assert receive(again)
    again.shutdown()  # gone without a word
    poll(lambda: json.loads(component.get())["open"] == 0, "both clocks have ended")
    code, output = component.stop()
    assert code == 0
    assert "The clock is closed with 1001." in output
    assert "Traceback" not in output

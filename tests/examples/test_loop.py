"""Loops: one that answers, and one that speaks first."""

from __future__ import annotations

import json
import time

import pytest
import websocket

LOOP = "examples/loop/app.py"


def test_urls(start):
    program = start(LOOP)
    assert json.loads(program.get()) == {
        "echo": f"ws://127.0.0.1:{program.port}/echo",
        "clock": f"ws://127.0.0.1:{program.port}/clock/1000",
    }


def test_echo_until_close(start, connect):
    client = connect(start(LOOP), "/echo")
    client.send("hello")
    assert client.recv() == "hello"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"
    client.send("close")
    assert client.recv() == "bye"
    assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, (1000).to_bytes(2, "big"))


def test_clock_speaks_first(start, connect):
    client = connect(start(LOOP), "/clock/10")
    for _ in range(3):
        time.strptime(client.recv(), "%H:%M:%S.%f")
    client.send("close")
    opcode, data = client.recv_data()
    while opcode == websocket.ABNF.OPCODE_TEXT:  # what it said before it heard us
        opcode, data = client.recv_data()
    assert (opcode, data) == (
        websocket.ABNF.OPCODE_CLOSE,
        (4000).to_bytes(2, "big") + b"the clock has stopped",
    )


def test_url_that_does_not_fit(start, connect):
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        connect(start(LOOP), "/clock/0")


def test_with_flask_run(start, connect):
    program = start("-m", "flask", "--app", "examples/loop/app", "run", "--port", "PORT")
    client = connect(program, "/echo")
    client.send("hello")
    assert client.recv() == "hello"


def test_ctrl_c_ends_it_quietly(start):
    program = start(LOOP)
    assert program.get()  # it serves by then
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"

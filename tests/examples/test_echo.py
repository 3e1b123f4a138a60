"""The smallest example: what comes goes back."""

from __future__ import annotations

ECHO = "examples/echo/app.py"


def test_echo(start, connect):
    client = connect(start(ECHO))
    client.send("hello")
    assert client.recv() == "hello"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"

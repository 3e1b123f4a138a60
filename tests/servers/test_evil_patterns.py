"""A message made to keep a regular expression busy, against a server's process."""

from __future__ import annotations

import pathlib
import sys
import typing as t

from harness import Client
from harness import Process

Start = t.Callable[..., Process]

APP = """
import sys
from flask import Flask
from flask_websockets import WebSockets
from gevent.pywsgi import WSGIServer

app = Flask(__name__)
app.config["WEBSOCKETS_REGEX"] = "re2"
sockets = WebSockets(app, match_one=True)

@sockets.on_message("^(a+)+$")
def evil(message):
    return "evil"

@sockets.on_message
def length(message):
    return str(len(message))

WSGIServer(("127.0.0.1", int(sys.argv[1])), app).serve_forever()
"""


def ask(client: Client, message: str) -> str:
    client.send(message)
    return t.cast(str, client.recv())


def test_with_re2_it_is_a_message_as_others(start: Start, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "evil.py"
    source.write_text(APP)
    server = start([sys.executable, str(source), "PORT"])
    evil, other = server.connect(), server.connect()
    assert (ask(evil, "aaa"), ask(other, "bb")) == ("evil", "2")
    for count in (40, 1 << 19):
        evil.send("a" * count + "!")
        assert ask(other, "bb") == "2"
        assert evil.recv() == str(count + 1)
    assert server.log().count("Traceback") == 0
    evil.shutdown()
    other.shutdown()

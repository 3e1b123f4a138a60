"""The app that every server of the contract suite runs, in a process of its own.

Started by ``run.py`` beside it, by gunicorn, or by ``flask run``.
"""

from __future__ import annotations

import os
import sys
import typing as t

from flask import abort
from flask import Flask
from flask import g
from flask import render_template_string
from flask import request
from flask import session
from flask import url_for
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
app.secret_key = "not a secret"
app.config["WEBSOCKETS_COMPRESSION"] = "COMPRESS" in os.environ
app.config["WEBSOCKETS_MAX_MESSAGE_SIZE"] = 32 << 20
app.config["WEBSOCKETS_SUBPROTOCOLS"] = ["v2", "v1"]
app.config["WEBSOCKETS_CLOSE_TIMEOUT"] = 2
if "PROXY" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1)  # type: ignore[method-assign]

sockets = WebSockets(app)
chat = WebSockets(app, path="/chat/<room>", endpoint="chat")
guarded = WebSockets(app, path="/guarded", endpoint="guarded")
plain = WebSockets(app, path="/echo", endpoint="echo")
events: list[str] = []


@app.before_request
def count() -> None:
    g.requests = "before_request ran"


@app.after_request
def mark(response: t.Any) -> t.Any:
    response.headers["X-After-Request"] = "ran"
    return response


@app.teardown_appcontext
def teardown(error: BaseException | None) -> None:
    events.append("teardown")


@sockets.on_message(r"(?s)(?!(?:FAIL|ABORT|CLOSE|URL|VISITS|TEARDOWNS|STREAM|RECEIVE))(?P<text>.*)")
def echo(message: str, text: str) -> str:
    return text


@sockets.on_message(rb"(?s).*")
def echo_binary(message: bytes) -> bytes:
    return message


@plain.on_message
def echo_all(message: str | bytes) -> str | bytes:
    return message


@sockets.on_message("FAIL")
def fail() -> None:
    raise ZeroDivisionError("on purpose")


@sockets.on_message("ABORT")
def abort_message() -> None:
    abort(403)


@sockets.on_message("CLOSE")
def close() -> None:
    ws.close(4000, "as asked")


@sockets.on_message("URL")
def url() -> str:
    return render_template_string("{{ url_for('websocket', _external=True) }}")


@sockets.on_message("VISITS")
def visits() -> str:
    return f"{session['visits']} {request.args.get('name')}"


@sockets.on_message("TEARDOWNS")
def teardowns() -> str:
    return str(events.count("teardown") > 0)


@sockets.on_message("STREAM")
def stream() -> t.Iterator[str]:
    for number in range(3):
        yield str(number)


@sockets.on_message("RECEIVE")
def receive() -> str:
    return f"first {ws.receive()!r}, then {ws.receive(timeout=5)!r}"


@sockets.before_open
def visit() -> None:
    session["visits"] = session.get("visits", 0) + 1


@sockets.on_close
def closed(code: int, reason: str) -> None:
    print(f"closed {code} {reason!r}", file=sys.stderr, flush=True)


@chat.on_open
def enter(room: str) -> str:
    ws.join(room)
    return f"in {room}"


@chat.on_message
def say(message: str, room: str) -> None:
    chat.broadcast(message, to=room)


@guarded.before_open
def guard() -> None:
    if "key" not in request.args:
        abort(401)


@sockets.route("/loop/<int:count>")
def loop(ws: t.Any, count: int) -> str:
    try:
        for _ in range(count):
            ws.send(f"got {ws.receive()}")
    except ConnectionClosed as error:
        print(f"loop ended {error.code}", file=sys.stderr, flush=True)
        raise
    return "bye"


@app.get("/")
def page() -> str:
    return "a page"


@app.get("/say/<room>/<text>")
def say_from_view(room: str, text: str) -> str:
    chat.broadcast(text, to=room)
    return url_for("chat", room=room, _external=True)

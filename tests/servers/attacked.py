"""The app that ``test_attacks.py`` attacks, in a process of its own.

``python attacked.py PORT`` serves it by gevent's pywsgi; gunicorn takes ``attacked:app``. Keys
of the configuration come from the environment.
"""

from __future__ import annotations

import collections
import sys
import time
import typing as t

from flask import Flask
from flask import request

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
app.config["WEBSOCKETS_COMPRESSION"] = True
app.config.from_prefixed_env()

sockets = WebSockets(app)
counting = WebSockets(app, path="/count", endpoint="count")
working = WebSockets(app, path="/work", endpoint="work")
rooms = WebSockets(app, path="/rooms/<room>", endpoint="rooms")
silent = WebSockets(app, path="/silent", endpoint="silent")

counts: collections.Counter[str] = collections.Counter()
closes: collections.Counter[str] = collections.Counter()
lives: list[float] = []


def work() -> None:
    """Keep the processor, or with gevent the hub, for a millisecond."""
    time.sleep(0.001)
    counts["work"] += 1


@sockets.on_message
def echo(message: str | bytes) -> str | bytes:
    counts["echo"] += 1
    return message if len(message) <= 125 else str(len(message))


@sockets.route("/echo-loop")
def echo_loop(ws: t.Any) -> None:
    for message in ws:
        ws.send(message)


@sockets.on_close
def closed(code: int, reason: str) -> None:
    closes[f"{code} {reason}"] += 1


@counting.on_message
def count(message: str | bytes) -> str | None:
    counts["count"] += 1
    return str(counts["count"]) if message == "?" else None


@working.on_message
def handle(message: str | bytes) -> None:
    work()


@working.on_message("close")
def close() -> None:
    ws.close(4000, "as asked")


@working.route("/work-loop")
def loop(ws: t.Any) -> None:
    for _ in ws:
        work()


@rooms.on_open
def enter(room: str) -> str:
    ws.join(room)
    return ws.id


@rooms.on_message
def fill(message: str) -> None:
    """Send until the peer has taken nothing for too long."""
    started = time.monotonic()
    try:
        while True:
            ws.send(bytes(65536))
            counts["sent"] += 65536
    except ConnectionClosed as error:
        closes[f"send {error.code}"] += 1
        lives.append(time.monotonic() - started)


@silent.on_open
def arrive() -> None:
    ws.state.since = time.monotonic()


@silent.on_close
def leave(code: int, reason: str) -> None:
    closes[f"{code} {reason}"] += 1
    lives.append(time.monotonic() - ws.state.since)


@app.get("/")
def page() -> str:
    return "a page"


@app.get("/state")
def state() -> dict[str, t.Any]:
    """What the tests ask for."""
    result: dict[str, t.Any] = {
        "counts": counts,
        "closes": closes,
        "lives": [min(lives, default=0), max(lives, default=0)],
        "open": len(silent.clients),
        "dropped": {one.id: one.dropped for one in rooms.clients},
        "watchers": 0,
    }
    if "gevent" in sys.modules:
        from gevent import get_hub

        result["watchers"] = get_hub().loop.activecnt
    return result


@app.get("/broadcast/<room>")
def broadcast(room: str) -> str:
    size, times = int(request.args["size"]), int(request.args.get("times", 1))
    for _ in range(times):
        rooms.broadcast(bytes(size), to=room)
    return "sent"


@app.get("/everywhere")
def everywhere() -> str:
    rooms.broadcast(request.args["text"])
    return "sent"


if __name__ == "__main__":
    from gevent import pywsgi

    try:
        pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
    except KeyboardInterrupt:
        pass

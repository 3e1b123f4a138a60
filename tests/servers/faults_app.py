"""An app whose connections end in every manner, and that tells what is left of them.

``python faults_app.py KIND PORT``, or ``faults_app:app`` for gunicorn.
"""

from __future__ import annotations

import collections
import gc
import os
import signal
import sys
import threading
import time
import typing as t

import gevent
import greenlet
from flask import Flask

from flask_websockets import WebSockets
from flask_websockets import ws

#: What a handler raises when it is asked for it by name.
FAULTS = {
    kind.__name__: kind
    for kind in (
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        gevent.Timeout,
        MemoryError,
        RecursionError,
    )
}

app = Flask(__name__)
# A descriptor and a thread less that come with the first connection and stay.
app.config["WEBSOCKETS_CONTROL"] = False
app.config["WEBSOCKETS_CLOSE_TIMEOUT"] = 2
sockets = WebSockets(app, path="/<path:name>")
sleep = time.sleep


@app.get("/")
def page() -> str:
    return "a page"


@app.get("/inside")
def inside() -> dict[str, t.Any]:
    """What the process has."""
    gc.collect()
    objects = gc.get_objects()
    types = collections.Counter(
        f"{type(one).__module__}.{type(one).__qualname__}" for one in objects
    )
    # type() and not isinstance(), which wakes up proxies.
    alive = [one for one in objects if issubclass(type(one), greenlet.greenlet) and not one.dead]
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "greenlets": len(alive),
        "clients": len(sockets.clients),
        "rooms": len(sockets._rooms()._rooms) + len(sockets._rooms()._joined),
        "places": app.extensions["websockets"].places._taken,
        "sessions": types["flask_websockets.dispatch.Session"],
        "blocks": sys.getallocatedblocks(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "types": types,
    }


@sockets.before_open
def guard(name: str) -> t.Any:
    if name == "refused":
        return "no", 403
    if name == "slow":
        sleep(0.02)
    if name == "leave":
        sys.exit(3)
    return None


@sockets.on_open
def enter(name: str) -> None:
    ws.join(name)
    ws.join("all")


@sockets.on_message("ECHO")
def echo(message: str) -> str:
    return message


@sockets.on_message("RAISE (?P<kind>.*)")
def fail(message: str, kind: str) -> None:
    raise FAULTS[kind]("on purpose") if kind != "Timeout" else gevent.Timeout(1)


@sockets.on_message("LARGE")
def large() -> bytes:
    return bytes(4 << 20)


@sockets.on_message("STREAM")
def stream() -> t.Iterator[str]:
    while True:
        yield "x" * 1000


@sockets.on_message("CLOSE")
def close() -> None:
    ws.close(4000, "as asked")


@sockets.on_message("TELL")
def tell(message: str, name: str) -> None:
    sockets.broadcast(message, to=name)


@sockets.on_message("BUSY")
def busy() -> None:
    print("busy", file=sys.stderr, flush=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pass


def main(kind: str, port: int) -> None:
    global sleep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if kind == "werkzeug":
        app.run(port=port)
        return
    from gevent import pywsgi

    sleep = gevent.sleep
    pywsgi.WSGIServer(("127.0.0.1", port), app, log=None).serve_forever()


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except KeyboardInterrupt:
        pass

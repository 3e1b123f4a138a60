"""What ``soak.py`` drives, on gevent's pywsgi: ``python soaked.py PORT``.

Echoes, rooms, and a page that says what the process holds.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import os
import sys
import threading
import typing as t

from flask import Flask
from greenlet import greenlet
from ours import serve
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_websockets import WebSockets
from flask_websockets import ws


def create_app() -> Flask:
    """Make the app; below ``/hasty`` is the same with little patience."""
    app = make_app()
    hasty = make_app(WEBSOCKETS_PING_INTERVAL=0.3, WEBSOCKETS_PING_TIMEOUT=0.3)
    mounts = {"/hasty": hasty.wsgi_app}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, mounts)  # type: ignore[method-assign]

    @app.get("/held")
    def held() -> dict[str, int]:
        gc.collect()
        # By their types: to ask a proxy for its class is to ask what it stands for.
        kinds = collections.Counter(type(each) for each in gc.get_objects())
        ours = [kind for kind in kinds if str(kind.__module__).startswith("flask_websockets")]
        give_back()
        return {
            "pid": os.getpid(),
            "clients": len(app.extensions["soaked"].clients)
            + len(hasty.extensions["soaked"].clients),
            "threads": threading.active_count(),
            "greenlets": sum(count for kind, count in kinds.items() if issubclass(kind, greenlet)),
            "ours": sum(kinds[kind] for kind in ours),
            "objects": kinds.total(),
        }

    return app


def give_back() -> None:
    """Let the system have the memory that is free, of which each thread keeps some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def make_app(**config: t.Any) -> Flask:
    app = Flask(__name__)
    app.config.update(config, WEBSOCKETS_COMPRESSION=True, WEBSOCKETS_CLOSE_TIMEOUT=1)
    sockets = WebSockets(app, path="/<room>")
    app.extensions["soaked"] = sockets

    @sockets.on_open
    def enter(room: str) -> None:
        ws.join(room)

    @sockets.on_message(r"ALL (?P<text>.*)")
    def tell(message: str, text: str, room: str) -> None:
        sockets.broadcast(text, to=room)

    @sockets.on_message(r"(?!ALL )(?P<text>.*)")
    def echo(message: str, text: str) -> str:
        return text

    @sockets.on_message(rb"(?s).*")
    def echo_bytes(message: bytes) -> bytes:
        return message

    return app


if __name__ == "__main__":
    serve(create_app(), int(sys.argv[1]))

"""What ``soak.py`` drives, on gevent's pywsgi: ``python soaked.py PORT``.

Echoes, rooms, and a page that says what the process holds.
"""

from __future__ import annotations

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
        types = [type(each) for each in gc.get_objects()]
        modules = [str(kind.__module__) for kind in types]
        return {
            "pid": os.getpid(),
            "clients": len(app.extensions["soaked"].clients)
            + len(hasty.extensions["soaked"].clients),
            "threads": threading.active_count(),
            "greenlets": sum(issubclass(kind, greenlet) for kind in types),
            "ours": sum(module.startswith("flask_websockets") for module in modules),
            "objects": len(types),
        }

    return app


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

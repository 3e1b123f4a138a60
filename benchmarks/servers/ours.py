"""Flask-WebSockets on gevent's pywsgi: ``python ours.py PORT [PATTERNS]``.

All of the way that a message takes: patterns, contexts, ``ws`` and ``g``.
"""

from __future__ import annotations

import sys
import typing as t

from flask import Flask
from flask import g
from gevent import pywsgi

from flask_websockets import WebSockets
from flask_websockets import ws


def create_app(patterns: int = 0) -> Flask:
    """Make the app.

    :param patterns: how many patterns ``/patterns`` has, up to 1,000. The load generator's
        messages begin as the last one does.
    """
    app = Flask(__name__)
    app.config["WEBSOCKETS_COMPRESSION"] = True
    echo = WebSockets(app, path="/echo", endpoint="echo")
    publisher = WebSockets(app, path="/broadcast", endpoint="broadcast")

    @echo.on_message(r"(?s)(?P<text>.*)")
    def echo_text(message: str, text: str) -> str:
        g.open = ws.connected
        return text

    @echo.on_message(rb"(?s)(?P<data>.*)")
    def echo_bytes(message: bytes, data: bytes) -> bytes:
        g.open = ws.connected
        return data

    @publisher.on_message
    def publish(message: str) -> None:
        publisher.broadcast(message)

    many = WebSockets(app, path="/patterns", endpoint="patterns")
    for number in range(1000 - patterns, 1000):

        @many.on_message(rf"^COMMAND{number:03} (?P<text>.*)")
        def command(message: str, text: str) -> str:
            g.open = ws.connected
            return message

    return app


def serve(app: Flask, port: int, **options: t.Any) -> None:
    server = pywsgi.WSGIServer(("127.0.0.1", port), app, log=None, backlog=2048, **options)
    server.serve_forever()


if __name__ == "__main__":
    serve(create_app(*map(int, sys.argv[2:])), int(sys.argv[1]))

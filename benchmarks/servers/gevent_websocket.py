"""gevent-websocket alone, without Flask: ``python gevent_websocket.py PORT``."""

import sys

from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler

receivers = set()


def application(environ, start_response):
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/echo":
        while (message := ws.receive()) is not None:
            ws.send(message)
        return []
    receivers.add(ws)
    try:
        while (message := ws.receive()) is not None:
            for receiver in list(receivers):
                receiver.send(message)
    finally:
        receivers.discard(ws)
    return []


pywsgi.WSGIServer(
    ("127.0.0.1", int(sys.argv[1])),
    application,
    handler_class=WebSocketHandler,
    log=None,
    backlog=2048,
).serve_forever()

"""Flask-SocketIO on gevent-websocket's handler: ``python flask_socketio_gevent.py PORT``."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from flask import Flask  # noqa: E402
from flask_socketio import emit  # noqa: E402
from flask_socketio import SocketIO  # noqa: E402
from gevent import pywsgi  # noqa: E402
from geventwebsocket.handler import WebSocketHandler  # noqa: E402

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent", transports=["websocket"])


@socketio.on("echo")
def echo(data):
    emit("echo", data)


@socketio.on("broadcast")
def broadcast(data):
    emit("broadcast", data, broadcast=True)


pywsgi.WSGIServer(
    ("127.0.0.1", int(sys.argv[1])),
    app,
    handler_class=WebSocketHandler,
    log=None,
    backlog=2048,
).serve_forever()

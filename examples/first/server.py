"""A first server: it adds up the numbers that its clients send.

Start it with ``python examples/first/server.py`` and stop it with Ctrl-C.
"""

import os
import signal
from threading import Lock

import gevent
from flask import Flask
from flask import request
from gevent import pywsgi

from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
sockets = WebSockets(app)
lock = Lock()
total = 0


@sockets.before_open
def remember():
    ws.state.address = f"{request.remote_addr}:{request.environ['REMOTE_PORT']}"


@sockets.on_open
@sockets.on_close
def show():
    print("Clients:", *(client.state.address for client in sockets.clients), flush=True)


@sockets.on_message
def add(message):
    global total
    with lock:
        total += int(message)
        return f"Server records total={total}"


@sockets.errorhandler(ValueError)
def no_number():
    return "Please send a whole number."


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.serve_forever()

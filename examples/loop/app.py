"""Loops: a function has the connection for as long as it runs.

``/echo`` answers, ``/clock/1000`` speaks first and then every 1000 milliseconds. Both
close when they are told ``close``.

    python examples/loop/app.py
    flask --app examples/loop/app run

Then, in the console of a browser that shows http://127.0.0.1:5000:

    socket = new WebSocket("ws://127.0.0.1:5000/clock/1000")
    socket.onmessage = (event) => console.log(event.data)
    socket.send("close")
"""

import os
import signal
from datetime import datetime

import gevent
from flask import Flask
from flask import url_for
from gevent import pywsgi

from flask_websockets import WebSockets

app = Flask(__name__)
sockets = WebSockets(app, path=None)  # no URL but those of its loops


@app.get("/")
def index():
    return {"echo": url_for("echo"), "clock": url_for("clock", milliseconds=1000)}


@sockets.route("/echo")
def echo(ws):
    for message in ws:  # until the client leaves
        if message == "close":
            return "bye"  # sent; then the connection is closed with 1000
        ws.send(message)


@sockets.route("/clock/<int(min=10, max=60000):milliseconds>")
def clock(ws, milliseconds):
    while True:
        ws.send(f"{datetime.now():%H:%M:%S.%f}")
        if ws.receive(timeout=milliseconds / 1000) == "close":
            break
    ws.close(4000, "the clock has stopped")


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

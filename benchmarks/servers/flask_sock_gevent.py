"""Flask-Sock on gevent's pywsgi: ``python flask_sock_gevent.py PORT``."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from flask import Flask  # noqa: E402
from flask_sock import Sock  # noqa: E402
from gevent import pywsgi  # noqa: E402

app = Flask(__name__)
sock = Sock(app)
receivers = set()


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@sock.route("/broadcast")
def broadcast(ws):
    receivers.add(ws)
    try:
        while True:
            message = ws.receive()
            for receiver in list(receivers):
                receiver.send(message)
    finally:
        receivers.discard(ws)


pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None, backlog=2048).serve_forever()

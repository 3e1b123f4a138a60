"""A poll by events: JSON with a name in "event" and what belongs to it in "data".

Start it with ``python examples/events/app.py`` or ``flask --app examples/events/app run``.
"""

import os
import signal

import gevent
from flask import Flask
from flask import jsonify
from flask import render_template
from gevent import pywsgi

from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
sockets = WebSockets(app, match_one=True)  # so that unknown() hears only the rest
CHOICES = ["tea", "coffee", "water"]


@app.get("/")
def index():
    return render_template("index.html", choices=CHOICES)


@sockets.before_open
def abstain():
    ws.state.vote = None


@sockets.on_open
@sockets.on_close
def tell_all():
    votes = [client.state.vote for client in sockets.clients]
    counts = {choice: votes.count(choice) for choice in CHOICES}
    sockets.broadcast(jsonify(event="counts", data=counts))


@sockets.on_json(event="vote")
def vote(message):
    if message.get("data") not in CHOICES:
        return "error", "There is no such choice."
    ws.state.vote = message["data"]
    tell_all()
    return "voted", ws.state.vote


@sockets.on_json
def unknown(message):
    return "error", "There is no such event."


@sockets.after_message
def wrap(reply):
    event, data = reply
    return {"event": event, "data": data}


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

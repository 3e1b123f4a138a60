"""A chat where everybody may be in several rooms, and may talk to everybody at once.

Start it with ``python examples/rooms/app.py`` or ``flask --app examples/rooms/app run``.
"""

import os
import signal

import gevent
from flask import Flask
from flask import jsonify
from flask import render_template
from flask import request
from gevent import pywsgi

from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
sockets = WebSockets(app)


@app.get("/")
def index():
    return render_template("index.html")


@sockets.on_open
def connect():
    ws.state.name = request.args.get("name", "")[:30] or f"guest-{ws.id[:4]}"
    return {"event": "connected", "name": ws.state.name}


@sockets.on_json(event="join")
def join(message):
    ws.join(room_of(message))
    tell("joined", room_of(message))


@sockets.on_json(event="leave")
def leave(message):
    tell("left", room_of(message))  # the one who leaves hears it too
    ws.leave(room_of(message))


@sockets.on_json(event="say")
def say(message):
    tell("said", room_of(message), message.get("text"))


@sockets.on_json(event="shout")
def shout(message):
    sockets.broadcast(jsonify(event="shouted", name=ws.state.name, text=message.get("text")))


@sockets.on_close
def disconnect():
    for room in ws.rooms:
        tell("left", room)


def room_of(message):
    return str(message.get("room"))[:30]


def tell(event, room, text=""):
    if room in ws.rooms:
        sockets.broadcast(jsonify(event=event, room=room, name=ws.state.name, text=text), to=room)


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

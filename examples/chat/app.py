"""A chat with rooms, an echo and a progress bar on one page."""

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
sockets = WebSockets(app)  # at the URL of the page itself
chat = WebSockets(app, path="/chat/<room>", endpoint="chat")


@app.get("/")
def index():
    room = request.args.get("room", "").replace("/", "-").strip()
    return render_template("index.html", room=room or "lobby")


@sockets.on_message(r"ECHO (?P<text>.*)")
def echo(message, text):
    return f"echo: {text}"


@sockets.on_message(r"COUNT (?P<steps>\d{1,3})$")
def count(message, steps):
    for step in range(1, int(steps) + 1):
        gevent.sleep(0.1)  # stands for a piece of work
        yield f"done: {step}/{steps}"


@chat.on_open
def enter(room):
    ws.state.name = clean(request.args.get("name")) or f"guest-{ws.id[:4]}"
    ws.join(room)
    tell(room, f"{ws.state.name} is here")
    return jsonify(type="you", name=ws.state.name)


@chat.on_json(type="name")
def rename(message, room):
    old, ws.state.name = ws.state.name, clean(message.get("name")) or ws.state.name
    tell(room, f"{old} is now {ws.state.name}")
    return {"type": "you", "name": ws.state.name}


@chat.on_json(type="say")
def say(message, room):
    words = jsonify(type="say", name=ws.state.name, text=str(message.get("text"))[:2000])
    chat.broadcast(words, to=room)


@chat.on_close
def leave(room):
    tell(room, f"{ws.state.name} has left")


def tell(room, text):
    names = sorted(one.state.name for one in chat.clients if room in one.rooms)
    chat.broadcast(jsonify(type="who", names=names, text=text), to=room)


def clean(name):
    return " ".join(str(name or "").split())[:30]


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

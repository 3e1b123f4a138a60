"""The basics on one page: patterns, replies, contexts, and views that reach sockets.

Start it with ``python examples/basic/app.py`` or ``flask --app examples/basic/app run``,
and open it in two browsers. Two endpoints hear the same messages: one calls all handlers
that fit, the other the first one only.
"""

import os
import secrets
import signal

import gevent
from flask import Flask
from flask import jsonify
from flask import render_template
from flask import request
from flask import session
from gevent import pywsgi

from flask_websockets import has_socket_context
from flask_websockets import WebSockets
from flask_websockets import ws

app = Flask(__name__)
app.secret_key = "change me"
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
sockets = WebSockets(app)
first = WebSockets(app, path="/first", endpoint="first", match_one=True)


# Handlers of messages, each for both endpoints


@sockets.on_message(r"ECHO (?P<text>.*)")
@first.on_message(r"ECHO (?P<text>.*)")
def echo(message, text):
    return text


@sockets.on_message(r"RETURN (?P<what>\w+)")
@first.on_message(r"RETURN (?P<what>\w+)")
def reply(message, what):
    replies = {
        "nothing": None,
        "text": "some text",
        "bytes": b"\x00\x80\xff",
        "json": jsonify(text="some text"),
        "dict": {"text": "some text"},  # an error: see wrong() below
    }
    return replies.get(what, "no such thing")


@sockets.on_message("WORK")
@first.on_message("WORK")
def work():
    for step in ("work begins", "half of it is done"):
        ws.send(step)
        gevent.sleep(0.5)  # stands for a piece of work
    return "work is done"


@sockets.on_message("CONTEXT")
@first.on_message("CONTEXT")
def context():
    return f"in a handler: {has_socket_context()}"


@sockets.on_message
@first.on_message
def acknowledge(message):
    return "ACK"


@sockets.errorhandler(TypeError)  # the other endpoint has none: it closes with 1011
def wrong(error):
    return f"TypeError: {error}"


# Who is who: all tabs of a browser share a session, and so a room


@app.before_request
def name_visitor():
    session.setdefault("visitor", secrets.token_hex(8))


@sockets.on_open
def enter():
    ws.join(f"visitor:{session['visitor']}")


# Views


@app.get("/")
def index():
    return render_template("index.html", in_view=has_socket_context())


@app.post("/broadcast")
def broadcast():
    sockets.broadcast(f"to all: {request.form['text']}")
    return "", 204  # the browser stays on its page


@app.post("/mine")
def mine():
    sockets.broadcast(f"to you: {request.form['text']}", to=f"visitor:{session['visitor']}")
    return "", 204


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

"""Two blueprints with a socket each, under a prefix of their own.

    python examples/blueprints/app.py
    flask --app examples/blueprints/app run

``ws://127.0.0.1:5000/echo/`` sends back what it is sent. ``ws://127.0.0.1:5000/chat/tea``
sends each message to all who are in the room, and a plain request for that URL tells how
many they are.
"""

import os
import signal

import gevent
from flask import Blueprint
from flask import Flask
from flask import url_for
from gevent import pywsgi

from flask_websockets import WebSockets
from flask_websockets import ws

echoes = Blueprint("echoes", __name__)
echo = WebSockets(echoes)

chats = Blueprint("chats", __name__)
chat = WebSockets(chats, path="/<room>")


@echo.on_message
def send_back(message):
    return message


@chat.on_open
def enter(room):
    ws.join(room)


@chat.on_message
def tell_all(message, room):
    chat.broadcast(message, to=room)


@chats.get("/<room>")
def people(room):
    count = sum(room in client.rooms for client in chat.clients)
    return {"socket": url_for(".websocket", room=room), "people": count}


app = Flask(__name__)
app.register_blueprint(echoes, url_prefix="/echo")
app.register_blueprint(chats, url_prefix="/chat")

if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"Open http://127.0.0.1:{server.server_port}/chat/tea and stop with Ctrl-C.", flush=True)
    server.serve_forever()

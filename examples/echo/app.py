"""Sends back what it is sent.

Runs on gevent-websocket's handler, as many Flask programs with sockets do; it runs
just as well without ``handler_class``.
"""

import os

from flask import Flask

from flask_websockets import WebSockets

app = Flask(__name__)
sockets = WebSockets(app)


@sockets.on_message
def echo(message):
    return message


if __name__ == "__main__":
    from gevent import pywsgi
    from geventwebsocket.handler import WebSocketHandler

    port = int(os.environ.get("PORT", "5000"))
    server = pywsgi.WSGIServer(("127.0.0.1", port), app, handler_class=WebSocketHandler)
    server.serve_forever()

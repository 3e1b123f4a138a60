"""A function of a serverless platform, put behind a URL by one line.

Run it, and talk to it with wscat, which closes after five messages:

    python examples/serverless/app.py
    wscat -c ws://127.0.0.1:5000/socktest

``function.py`` is as it was on the platform, Fission's Python environment.
"""

import os
import signal

import gevent
from flask import Flask
from function import main
from gevent import pywsgi

from flask_websockets import WebSockets

app = Flask(__name__)
sockets = WebSockets(app, path=None)
sockets.route("/socktest")(main)

if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    url = f"ws://127.0.0.1:{server.server_port}/socktest"
    print(f"Connect to {url} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

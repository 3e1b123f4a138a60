"""A small API whose sockets each show one thing that a connection can do.

Run it, and talk to it with any client, such as wscat:

    python examples/component/app.py
    wscat -c ws://127.0.0.1:5000/clock

The connection is open when a function begins and is closed when it returns. Hooks say who
may connect, and what is said last.
"""

import json
import os
import signal
from datetime import datetime
from datetime import timezone
from decimal import Decimal
from functools import partial

import gevent
from flask import Flask
from gevent import pywsgi

from flask_websockets import CloseCode
from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws

PROTOCOL = "v1.api.example"

app = Flask(__name__)
app.logger.setLevel("INFO")
app.config["CLOCK_INTERVAL"] = 1.0  # seconds
app.config.from_prefixed_env()  # FLASK_CLOCK_INTERVAL=0.1
sockets = WebSockets(app, path=None)  # open to all
strict = WebSockets(app, path=None)  # for those that offer PROTOCOL


@app.get("/")
def index():
    paths = [rule.rule for rule in app.url_map.iter_rules() if rule.websocket]
    return {"sockets": paths, "open": len(sockets.clients) + len(strict.clients)}


# The hooks


@sockets.before_open
@strict.before_open
def begin():
    ws.state.status = "ok"
    ws.state.began = phase(ws)


@strict.before_open
def require_protocol():
    if PROTOCOL not in ws.subprotocols:
        return {"error": f"Offer the subprotocol {PROTOCOL}."}, 400
    ws.accept(PROTOCOL)


@sockets.before_close
@strict.before_close
def end():
    return {"status": ws.state.status}


# The sockets


@strict.route("/protocol")
def protocol(ws):
    return {"offered": ws.subprotocols, "chosen": ws.subprotocol}


@sockets.route("/phases")
def phases(ws):
    return {"before_open": ws.state.began, "now": phase(ws)}


@sockets.route("/pingpong")
def ping_pong(ws):
    for count in range(100):
        ws.send_json({"ping": count})
        if ws.receive() != "pong":
            ws.state.status = "error"
            ws.close(CloseCode.POLICY_VIOLATION, "A ping wants a pong.")
            return
    ws.close(CloseCode.NORMAL_CLOSURE, "Well played.")


@sockets.route("/sum")
def add(ws):
    loads = partial(json.loads, parse_float=Decimal)  # 0.1 is a tenth
    dumps = partial(json.dumps, default=str)
    total = Decimal(0)
    while ws.connected:
        try:
            total += ws.receive_json(loads=loads)
        except (TypeError, ValueError):
            ws.state.status = "error"
            ws.close(CloseCode.UNSUPPORTED_DATA, "Send numbers.")
        else:
            ws.send_json({"total": total}, dumps=dumps)


@sockets.route("/clock")
def clock(ws):
    try:
        while True:
            ws.send_json({"time": datetime.now(timezone.utc).isoformat()})
            ws.receive(timeout=app.config["CLOCK_INTERVAL"])
    except ConnectionClosed as error:
        app.logger.info("The clock is %s with %s.", phase(ws), error.code)


def phase(ws):
    return next(name for name in ("connecting", "connected", "closed") if getattr(ws, name))


if __name__ == "__main__":
    server = pywsgi.WSGIServer(("127.0.0.1", int(os.environ.get("PORT", "5000"))), app, log=None)
    gevent.signal_handler(signal.SIGINT, server.stop)
    server.start()
    print(f"See http://127.0.0.1:{server.server_port} and stop with Ctrl-C.", flush=True)
    server.serve_forever()

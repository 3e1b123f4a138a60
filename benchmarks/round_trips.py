"""How many round trips a second the test client makes: send() and receive(), one after the other.

    python benchmarks/round_trips.py                              the compiled core
    PURE_FLASK_WEBSOCKETS=1 python benchmarks/round_trips.py      its sources

Counted is the processor's time, as nothing waits and other programs may run. The app has what
that of the workload p1 has: a pattern with a named group, ``ws`` and ``g``.
"""

from __future__ import annotations

import statistics
import time

from flask import Flask
from flask import g

import flask_websockets
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.testing import connect
from flask_websockets.testing import Connection

ROUNDS = 7
TRIPS = 5000
TEXT = "ECHO " + 27 * "x"

app = Flask(__name__)
app.testing = True
sockets = WebSockets(app)


@sockets.on_message(r"^ECHO (?P<text>.*)")
def echo(message: str, text: str) -> str:
    g.name = ws.id
    return text


def measure(socket: Connection) -> float:
    """Round trips a second."""
    start = time.process_time()
    for _ in range(TRIPS):
        socket.send(TEXT)
        assert socket.receive() == TEXT[5:]
    return TRIPS / (time.process_time() - start)


def main() -> None:
    client = app.test_client()
    with connect(client) as socket:
        measure(socket)
        alone = [measure(socket) for _ in range(ROUNDS)]
        others = [connect(client) for _ in range(9)]
        among = [measure(socket) for _ in range(ROUNDS)]
        for other in others:
            other.close()
    print("compiled" if flask_websockets.compiled else "Python sources")
    print(f"{statistics.median(alone):,.0f} round trips a second on one connection")
    print(f"{statistics.median(among):,.0f} with nine others open")


if __name__ == "__main__":
    main()

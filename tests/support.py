"""Real servers in this process, on both drivers, and a client for them.

They run an app in a thread, so that tests can look at what handlers saw. The servers in
processes of their own are in ``tests/servers``.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
import typing as t

import gevent
import gevent.pool
import pytest
import websocket
from click.testing import Result
from flask import Flask
from gevent import pywsgi
from werkzeug.serving import make_server

from flask_websockets import WebSocket
from flask_websockets import WebSockets

S = t.TypeVar("S", bound="Server")

TIMEOUT = 10.0


def wait_until(condition: t.Callable[[], t.Any], what: str) -> None:
    """Look until *condition* holds; fail with *what* when it does not in time."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never happened: {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def serving(kind: t.Callable[[Flask], S]) -> t.Iterator[t.Callable[[Flask], S]]:
    """Start servers of a kind for apps, and stop them all at the end."""
    servers: list[S] = []

    def start(app: Flask) -> S:
        servers.append(kind(app))
        return servers[-1]

    yield start
    for server in servers:
        server.close_clients()
        server.stop()


def configure(app: Flask, **config: t.Any) -> WebSockets:
    """A WebSockets object on *app*, with keys of the configuration without prefix."""
    app.config.update({f"WEBSOCKETS_{key.upper()}": value for key, value in config.items()})
    return WebSockets(app)


def the_connection(sockets: WebSockets) -> WebSocket:
    """The only connection, once it is open."""
    wait_until(lambda: len(sockets.clients) == 1, "the connection")
    (connection,) = sockets.clients
    return connection


def is_readable(file: t.Any, seconds: float) -> bool:
    """Whether there is something to read within *seconds*; of any descriptor, unlike select(2)."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def run_command(app: Flask, *arguments: str, input: str | None = None, **options: t.Any) -> Result:
    """Run ``flask websockets ...`` for *app*; what it raises is raised here."""
    return app.test_cli_runner(catch_exceptions=False).invoke(
        args=["websockets", *arguments], input=input, **options
    )


def failed_command(app: Flask, *arguments: str, code: int = 1) -> str:
    """The sentence that ``flask websockets ...`` fails with."""
    result = run_command(app, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr.split("Error: ")[-1].strip()


class Client(websocket.WebSocket):
    """websocket-client, with what tests ask for again and again."""

    def recv_close(self) -> tuple[int, str]:
        """The code and reason of the Close frame that comes next."""
        opcode, data = self.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE, (opcode, data)
        return (int.from_bytes(data[:2], "big") if data else 1005), data[2:].decode()


class Server:
    """A running server, by its port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._clients: list[Client] = []

    def url(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def connect(self, path: str = "/", **options: t.Any) -> Client:
        """Connect a client; it is closed when the test is over."""
        client = Client()
        client.settimeout(TIMEOUT)
        client.connect(self.url(path), **options)
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        for client in self._clients:
            client.shutdown()


class ThreadServer(Server):
    """Werkzeug's server: a thread for each connection."""

    def __init__(self, app: Flask) -> None:
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        super().__init__(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(TIMEOUT)
        self._server.server_close()


class GeventServer(Server):
    """gevent's pywsgi with the hub of a thread of its own."""

    def __init__(self, app: Flask) -> None:
        started = threading.Event()
        self._stopped: gevent.event.AsyncResult | None = None

        def run() -> None:
            self._hub = gevent.get_hub()
            self._server = pywsgi.WSGIServer(
                ("127.0.0.1", 0), app, log=None, spawn=gevent.pool.Pool()
            )
            self._server.start()
            self._stop = gevent.event.Event()
            started.set()
            self._stop.wait()
            self._server.stop(timeout=TIMEOUT)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(TIMEOUT)
        super().__init__(self._server.server_port)

    def stop(self) -> None:
        self._hub.loop.run_callback_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

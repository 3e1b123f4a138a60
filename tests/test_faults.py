"""User code that raises, wherever it is called and whatever it raises.

The connection is closed with 1011, the error logged once, ``on_close`` called once, and all
is freed, without the garbage collector's help. The other connections notice nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import typing as t
import weakref

import gevent
import pytest
import websocket
from flask import appcontext_popped
from flask import appcontext_pushed
from flask import appcontext_tearing_down
from flask import Flask
from flask import g
from flask import got_request_exception
from flask import request
from flask import request_tearing_down
from flask import Response
from flask.json.provider import DefaultJSONProvider
from support import Client
from support import wait_until
from websocket import ABNF
from werkzeug.routing import BaseConverter

from flask_websockets import has_socket_context
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.protocol import Protocol


class Boom(Exception):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Boom

    __repr__ = __str__


class Unheard(BaseException):
    """No error handler can be registered for it."""


def recurse() -> None:
    recurse()


#: What user code raises, by the name that a client asks for it by.
FAULTS: dict[str, type[BaseException]] = {
    "exception": Boom,
    "unprintable": Unprintable,
    "recursion": RecursionError,
    "memory": MemoryError,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "timeout": gevent.Timeout,
    "cancelled": asyncio.CancelledError,
    "unheard": Unheard,
}


def fail(name: str) -> None:
    """Raise what *name* stands for; nothing if it is none of them."""
    if name == "recursion":
        recurse()
    elif name in FAULTS:
        raise FAULTS[name]


def fail_once() -> None:
    """The same by the URL, once for each connection, for what is called in each turn."""
    if has_socket_context() and not hasattr(ws.state, "failed"):
        ws.state.failed = True
        fail(request.view_args["name"])


# Each makes user code fail for connections with one of these names.


def in_on_open(app: Flask, sockets: WebSockets) -> None:
    sockets.on_open(fail_once)


def in_on_message(app: Flask, sockets: WebSockets) -> None:
    sockets.on_message(fail_once)


def in_on_json(app: Flask, sockets: WebSockets) -> None:
    sockets.on_json(fail_once)


def in_before_message(app: Flask, sockets: WebSockets) -> None:
    sockets.before_message(fail_once)


def in_after_message(app: Flask, sockets: WebSockets) -> None:
    @sockets.after_message
    def after(reply):
        fail_once()
        return reply


def in_before_close(app: Flask, sockets: WebSockets) -> None:
    sockets.before_close(fail_once)

    @sockets.on_message
    def close(message, name):
        if name in FAULTS:
            ws.close(4000, "bye")


def in_a_generator(app: Flask, sockets: WebSockets) -> None:
    @sockets.on_message
    def stream(message):
        yield None
        fail_once()


def at_the_end_of_a_generator(app: Flask, sockets: WebSockets) -> None:
    @sockets.on_message
    def stream(message, name):
        try:
            yield object() if name in FAULTS else None  # which is no reply
        finally:
            fail_once()


def in_an_error_handler(app: Flask, sockets: WebSockets) -> None:
    @sockets.on_message
    def handler(message, name):
        if name in FAULTS:
            raise LookupError

    @sockets.errorhandler(LookupError)
    def answer(error):
        fail_once()


def in_a_teardown_request_function(app: Flask, sockets: WebSockets) -> None:
    app.teardown_request(lambda error: fail_once())


def in_a_teardown_appcontext_function(app: Flask, sockets: WebSockets) -> None:
    app.teardown_appcontext(lambda error: fail_once())


def in_teardown_after_an_error(app: Flask, sockets: WebSockets) -> None:
    @sockets.on_message
    def handler(message, name):
        if name in FAULTS:
            ws.close(1011)
            ws.send("which nobody can any more")

    app.teardown_appcontext(lambda error: fail_once())


def in_a_filter(app: Flask, sockets: WebSockets) -> None:
    class Filter:
        def __eq__(self, other: object) -> bool:
            fail_once()
            return False

    sockets.on_json(key=Filter())(lambda data: None)


def in_loading_json(app: Flask, sockets: WebSockets) -> None:
    class Provider(DefaultJSONProvider):
        def loads(self, s, **kwargs):
            fail_once()
            return super().loads(s, **kwargs)

    app.json = Provider(app)
    sockets.on_json(lambda data: None)


def in_dumping_json(app: Flask, sockets: WebSockets) -> None:
    class Provider(DefaultJSONProvider):
        def dumps(self, obj, **kwargs):
            fail_once()
            return super().dumps(obj, **kwargs)

    app.json = Provider(app)

    @sockets.on_json
    def handler(data, name):
        return [1] if name in FAULTS else None


def in_a_response(app: Flask, sockets: WebSockets) -> None:
    class Failing(Response):
        def get_data(self, *args, **kwargs):
            fail_once()
            return super().get_data(*args, **kwargs)

    @sockets.on_message
    def handler(message, name):
        return Failing("text") if name in FAULTS else None


def watch(signal: t.Any) -> t.Callable[[Flask, WebSockets], None]:
    def in_a_receiver(app: Flask, sockets: WebSockets) -> None:
        def receiver(sender, **extra):
            fail_once()

        signal.connect(receiver, app)
        app.extensions[signal.name] = receiver  # which the signal forgets with the app

    in_a_receiver.__name__ += f"_of_{signal.name}"
    return in_a_receiver


PLACES = [
    in_on_open,
    in_on_message,
    in_on_json,
    in_before_message,
    in_after_message,
    in_before_close,
    in_a_generator,
    at_the_end_of_a_generator,
    in_an_error_handler,
    in_a_teardown_request_function,
    in_a_teardown_appcontext_function,
    in_teardown_after_an_error,
    in_a_filter,
    in_loading_json,
    in_dumping_json,
    in_a_response,
    watch(appcontext_pushed),
    watch(request_tearing_down),
    watch(appcontext_tearing_down),
    watch(appcontext_popped),
]


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_collector() -> t.Iterator[None]:
    """What is freed in these tests is freed without it."""
    gc.disable()
    yield
    gc.enable()


class Endpoint:
    """A socket at ``/<name>`` that echoes, with notes of what becomes of its connections."""

    def __init__(self, app: Flask, log: list[logging.LogRecord]) -> None:
        self._app = app
        self.sockets = WebSockets(app, path="/<name>")
        self.closes: list[tuple[str, int]] = []
        self.signalled: list[type[BaseException]] = []
        self._log = log
        self._connections: list[weakref.ref[t.Any]] = []
        self.sockets.before_open(self._remember)
        self.sockets.on_open(lambda name: ws.join(name))
        self.sockets.on_close(lambda name, code: self.closes.append((name, code)))
        got_request_exception.connect(self._signalled, app)

    def echo(self) -> None:
        """Answer messages, behind the handlers that are there already."""

        @self.sockets.on_message
        def echo(message):
            return message

    def _remember(self) -> None:
        self._connections.append(weakref.ref(ws._get_current_object()))

    def _signalled(self, sender, exception, **extra):
        self.signalled.append(type(exception))

    def take_log(self) -> list[str]:
        """What was logged, as it would be written; then the log refers to nothing."""
        formatter = logging.Formatter()
        lines = []
        while self._log:
            record = self._log.pop(0)
            lines.append(formatter.format(record))
            record.exc_info = None  # pytest has the record too
        return lines

    def wait_until_freed(self, others: int, collect: bool = False) -> None:
        """Nothing is left of the last connection, with so many *others* still there."""

        def are_freed() -> bool:
            if collect:
                gc.collect()
            return sum(one() is not None for one in self._connections) == others

        wait_until(are_freed, "the connection is freed")
        assert len(self.sockets.clients) == others
        assert len(self.sockets._rooms()._rooms) == others
        assert self._app.extensions["websockets"].places._taken == others


@pytest.fixture
def endpoint(app: Flask, log: list[logging.LogRecord]) -> Endpoint:
    return Endpoint(app, log)


def wait_for_end(client: Client) -> None:
    """Wait for the end of the TCP connection, before which all handlers have run."""
    assert client.sock.recv(1) == b""
    client.shutdown()  # which the server has waited for


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_errors_wherever_they_happen(app, serve, endpoint, capfd, place):
    place(app, endpoint.sockets)
    endpoint.echo()
    server = serve(app)
    bystander = server.connect("/good")
    for name, kind in FAULTS.items():
        if place is in_loading_json and kind is RecursionError:
            continue  # what is nested too deep is no JSON
        if place is at_the_end_of_a_generator and kind is GeneratorExit:
            kind = TypeError  # that is how a generator ends: what is left is the wrong item
        client = server.connect(f"/{name}")
        if place is not in_on_open:
            client.send('{"key": 1}')
        while True:
            opcode, data = client.recv_data()
            if opcode == ABNF.OPCODE_CLOSE:
                break
            assert data == b'{"key": 1}'  # what fails behind the reply does not take it back
        assert data == (1011).to_bytes(2, "big")
        wait_for_end(client)
        (logged,) = endpoint.take_log()
        assert logged.startswith("Exception on socket ")
        assert f"of /{name}\nTraceback (most recent call last):\n" in logged
        assert kind.__name__ in logged.splitlines()[-1]
        assert endpoint.signalled == [kind]
        assert endpoint.closes == [(name, 1011)]
        endpoint.signalled.clear()
        endpoint.closes.clear()
        endpoint.wait_until_freed(others=1)
    bystander.send("still here")
    assert bystander.recv() == "still here"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("is_generator", [False, True])
def test_errors_in_a_loop(app, serve, endpoint, capfd, is_generator):
    def loop(connection, name):
        for message in connection:
            fail(name)
            connection.send(message)

    def generator(connection, name):
        for message in connection:
            fail(name)
            yield message

    endpoint.sockets.route("/loop/<name>", endpoint="loop")(generator if is_generator else loop)
    server = serve(app)
    bystander = server.connect("/loop/good")
    for name, kind in FAULTS.items():
        client = server.connect(f"/loop/{name}")
        client.send("1")
        assert client.recv_close() == (1011, "")
        wait_for_end(client)
        (logged,) = endpoint.take_log()
        assert kind.__name__ in logged.splitlines()[-1]
        assert endpoint.closes == [(name, 1011)]
        endpoint.closes.clear()
        endpoint.wait_until_freed(others=1)
    bystander.send("still here")
    assert bystander.recv() == "still here"
    assert "Traceback" not in capfd.readouterr().err


def test_errors_in_on_close(app, serve, endpoint, capfd):
    endpoint.sockets.on_close(fail_once)
    endpoint.sockets.on_close(lambda name, code: endpoint.closes.append((f"last {name}", code)))
    endpoint.echo()
    server = serve(app)
    bystander = server.connect("/good")
    for name, kind in FAULTS.items():
        client = server.connect(f"/{name}")
        client.send_close(4000)
        assert client.recv_close() == (4000, "")
        wait_for_end(client)
        (logged,) = endpoint.take_log()
        assert kind.__name__ in logged.splitlines()[-1]
        assert endpoint.closes == [(name, 4000), (f"last {name}", 4000)]
        endpoint.closes.clear()
        endpoint.wait_until_freed(others=1)
    bystander.send("still here")
    assert bystander.recv() == "still here"
    assert "Traceback" not in capfd.readouterr().err


def test_errors_in_a_receiver_of_the_error(app, serve, endpoint, capfd):
    @endpoint.sockets.on_message
    def handler(message):
        raise LookupError("the first")

    def receiver(sender, **extra):
        fail_once()

    got_request_exception.connect(receiver, app)
    server = serve(app)
    bystander = server.connect("/good")
    for name, kind in FAULTS.items():
        client = server.connect(f"/{name}")
        client.send("1")
        assert client.recv_close() == (1011, "")
        wait_for_end(client)
        first, second = endpoint.take_log()
        assert first.endswith("LookupError: the first")
        assert second.startswith("A receiver of got_request_exception failed\nTraceback ")
        assert kind.__name__ in second
        assert endpoint.closes == [(name, 1011)]
        endpoint.closes.clear()
        endpoint.wait_until_freed(others=1)
    bystander.ping()
    assert bystander.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"")
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_the_logger(app, serve, endpoint, capfd):
    class Filter:
        def filter(self, record):
            raise Boom("of the logger")

    @endpoint.sockets.on_message
    def handler(message):
        raise LookupError("of the handler")

    filter = Filter()
    app.logger.addFilter(filter)
    client = serve(app).connect("/name")
    client.send("1")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    app.logger.removeFilter(filter)
    printed = capfd.readouterr().err
    assert printed.count("LookupError: of the handler") == 1
    assert printed.count("Boom: of the logger") == 1
    assert endpoint.closes == [("name", 1011)]
    endpoint.wait_until_freed(others=0)


def test_an_error_between_two_turns(app, serve, endpoint, monkeypatch):
    class Failing(Protocol):
        failed = False

        def receive(self, data, *room):
            if Failing.failed:
                return super().receive(data, *room)
            Failing.failed = True
            raise MemoryError("for a message")

    endpoint.echo()
    server = serve(app)
    bystander = server.connect("/good")
    monkeypatch.setattr("flask_websockets.handshake.Protocol", Failing)
    client = server.connect("/name")
    client.send("1")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    (logged,) = endpoint.take_log()
    assert logged.endswith("MemoryError: for a message")
    assert endpoint.closes == [("name", 1011)]
    endpoint.wait_until_freed(others=1)
    bystander.send("still here")
    assert bystander.recv() == "still here"


def test_an_error_is_logged_once_if_a_turn_is_within_another(app, serve, endpoint):
    @endpoint.sockets.before_close
    def closing():
        raise LookupError("closing")

    @endpoint.sockets.on_message
    def handler(message):
        raise LookupError("handling")

    @app.teardown_request
    def teardown(error):
        if str(error) == "handling":
            ws.close()

    client = serve(app).connect("/name")
    client.send("1")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    assert [line.splitlines()[-1] for line in endpoint.take_log()] == [
        "LookupError: handling",
        "LookupError: closing",
    ]
    endpoint.wait_until_freed(others=0)


def test_an_error_at_the_beginning_of_a_turn_within_another(app, serve, endpoint):
    seen = []

    @endpoint.sockets.before_close
    def closing():
        seen.append("never")

    @endpoint.sockets.on_message
    def handler(message):
        g.kept = "kept"
        ws.state.closing = True
        ws.close()
        seen.append(g.kept)  # no context of the other is left over this one

    def receiver(sender, **extra):
        if has_socket_context() and hasattr(ws.state, "closing"):
            del ws.state.closing
            raise Boom

    with appcontext_pushed.connected_to(receiver, app):
        client = serve(app).connect("/name")
        client.send("1")
        assert client.recv_close() == (1011, "")
        wait_for_end(client)
    assert seen == ["kept"]
    (logged,) = endpoint.take_log()
    assert logged.endswith("Boom")
    endpoint.wait_until_freed(others=0)


def test_an_error_handler_hears_only_exceptions(app, serve, endpoint):
    endpoint.sockets.on_message(fail_once)

    @endpoint.sockets.errorhandler(Exception)
    def answer(error):
        return type(error).__name__

    server = serve(app)
    for name, kind in FAULTS.items():
        client = server.connect(f"/{name}")
        client.send("1")
        if issubclass(kind, Exception):
            assert client.recv() == kind.__name__
            client.send_close(1000)
            assert client.recv_close() == (1000, "")
        else:
            assert client.recv_close() == (1011, "")
        wait_for_end(client)
        assert len(endpoint.take_log()) == (not issubclass(kind, Exception))
        endpoint.wait_until_freed(others=0)


# In the handshake it is a request's error as any


def the_name() -> str:
    """What the URL says; pytest-flask has a request of its own, which says nothing."""
    return (request.view_args or {}).get("name", "")


def in_before_open(app: Flask, sockets: WebSockets) -> None:
    sockets.before_open(fail)


def in_a_converter(app: Flask, sockets: WebSockets) -> None:
    class Converter(BaseConverter):
        def to_python(self, value):
            fail(value)
            return value

    app.url_map.converters["failing"] = Converter
    WebSockets(app, path="/converted/<failing:name>", endpoint="converted")


def in_after_request(app: Flask, sockets: WebSockets) -> None:
    @app.after_request
    def after(response):
        if response.status_code == 101:
            fail(the_name())
        return response


def in_the_teardown_of_the_handshake(app: Flask, sockets: WebSockets) -> None:
    @app.teardown_request
    def teardown(error):
        if not has_socket_context():
            fail(the_name())


def in_what_the_response_calls_on_close(app: Flask, sockets: WebSockets) -> None:
    @app.after_request
    def after(response):
        name = the_name()
        response.call_on_close(lambda: fail(name))
        return response


def wait_for_log(endpoint: Endpoint, caplog: t.Any, capfd: t.Any) -> list[str]:
    """What Flask logs, or the server where the request is over already."""
    logged: list[str] = []

    def is_logged() -> bool:
        theirs = [record for record in caplog.records if record.name == "werkzeug"]
        logged.extend(endpoint.take_log())
        logged.extend(filter(None, [capfd.readouterr().err]))
        logged.extend(one.getMessage() for one in theirs if one.levelname == "ERROR")
        return bool(logged)

    wait_until(is_logged, "the error is logged")
    return logged


@pytest.mark.parametrize(
    "place",
    [
        in_before_open,
        in_a_converter,
        in_after_request,
        in_the_teardown_of_the_handshake,
        in_what_the_response_calls_on_close,
    ],
)
def test_errors_in_the_handshake_are_500(app, serve, endpoint, capfd, caplog, place):
    place(app, endpoint.sockets)
    endpoint.echo()
    prefix = "/converted/" if place is in_a_converter else "/"
    server = serve(app)
    bystander = server.connect("/good")
    for name in FAULTS if place is in_before_open else ["exception", "memory"]:
        caplog.clear()
        with pytest.raises(websocket.WebSocketBadStatusException, match="500"):
            server.connect(prefix + name)
        logged = wait_for_log(endpoint, caplog, capfd)
        assert len(logged) == 1
        assert "Traceback (most recent call last)" in logged[0]
        assert FAULTS[name].__name__ in logged[0]
        # Flask's frames refer to the exception, and the other way round.
        endpoint.wait_until_freed(others=1, collect=True)
    bystander.send("still here")
    assert bystander.recv() == "still here"
    assert endpoint.closes == []


# What is over is freed


def test_a_connection_is_freed_without_the_collector(app, serve, endpoint):
    @endpoint.sockets.on_message("yield")
    def stream():
        yield "1"
        yield "2"

    @endpoint.sockets.on_message("close")
    def close():
        ws.close(4000)

    @endpoint.sockets.on_message("fail")
    def failing():
        raise Boom

    @endpoint.sockets.errorhandler(Boom)
    def answer(error):
        return "failed"

    endpoint.echo()
    server = serve(app)
    for how in ("close", "echo", "yield", "fail", "lost"):
        client = server.connect("/name")
        client.send(how)
        if how == "close":
            assert client.recv_close() == (4000, "")
        else:
            assert client.recv() == {"yield": "1", "fail": "failed"}.get(how, how)
            if how != "lost":
                client.send_close(1000)
                while client.recv_data()[0] != ABNF.OPCODE_CLOSE:
                    pass
        client.shutdown()
        endpoint.wait_until_freed(others=0)

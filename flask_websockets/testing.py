"""A client for tests of an app's sockets: no server, no port, no thread.

The handshake is a request of Flask's test client, the frames are those of the wire, and
the handlers run as on a server; only the bytes stay in memory.
"""

from __future__ import annotations

import base64
import os
import time
import types
import typing as t
import warnings
from collections import deque

from flask import Flask
from flask import got_request_exception
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers

from .connection import as_message
from .drivers.memory import BUFFER_SIZE
from .drivers.memory import Exchange
from .drivers.memory import MemoryTransport
from .drivers.servers import TRANSPORT_KEY
from .exceptions import ConnectionClosed
from .exceptions import WebSocketError
from .protocol import Close
from .protocol import CloseCode
from .protocol import Ping
from .protocol import Pong
from .protocol.client import agree
from .protocol.client import ClientProtocol
from .protocol.client import OFFER
from .protocol.frames import check_ping
from .protocol.handshake import accept_key
from .rooms import Message

if t.TYPE_CHECKING:
    from werkzeug.test import TestResponse

HeaderFields = t.Union[Headers, t.Mapping[str, str], t.Iterable[tuple[str, str]], None]

#: What an app has for its tests, in ``app.extensions``.
_EXTENSION = "flask_websockets.testing"
#: How long :meth:`Connection.close` waits for handlers that do not see it, in seconds.
_CLOSE_TIMEOUT = 5.0


class HandshakeRefused(WebSocketError):
    """The app has answered the handshake with something else than 101."""

    def __init__(self, response: TestResponse) -> None:
        super().__init__(response.status)
        #: The answer, as Flask's test client gives any other.
        self.response = response

    def __str__(self) -> str:
        text = " ".join(self.response.get_data().decode(errors="replace").split())
        return f"the handshake was refused with {self.response.status}" + (
            f": {text[:200]}" if text else ""
        )


def connect(
    client: FlaskClient,
    path: str = "/",
    *,
    subprotocols: t.Sequence[str] = (),
    headers: HeaderFields = None,
    compression: bool = False,
    **options: t.Any,
) -> Connection:
    """Open a WebSocket to the app of a Flask test client.

    The handshake is a request of *client*: it sends the client's cookies, and the cookies
    that come back are kept there. ``on_open`` has run when this returns.

    :param client: what ``app.test_client()`` gives.
    :param path: the path with its query, or a whole URL as ``url_for`` gives.
    :param subprotocols: those to offer, in order of preference.
    :param headers: further header fields; one of the handshake's own stands in for it.
    :param compression: whether to offer permessage-deflate.
    :param options: what else ``client.get`` takes, such as ``base_url``, ``subdomain``,
        ``query_string`` or ``environ_overrides``.
    :return: the open connection, which is closed at the end of its ``with`` block.
    :raises HandshakeRefused: if the answer is not 101.
    :raises TypeError: if *client* is not a test client of Flask.
    """
    __tracebackhide__ = True
    if not isinstance(client, FlaskClient):
        raise TypeError(
            f"connect() takes a test client of Flask, not {type(client).__name__}. "
            "Give it what app.test_client() returns."
        )
    key = base64.b64encode(os.urandom(16)).decode("ascii")
    fields = Headers(headers)
    for name, value in {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Protocol": ", ".join(subprotocols),
        "Sec-WebSocket-Extensions": OFFER if compression else "",
    }.items():
        if value:
            fields.setdefault(name, value)
    stage = _stage_of(client.application)
    transport = MemoryTransport(stage.exchange)
    overrides = {**(options.pop("environ_overrides", None) or {}), TRANSPORT_KEY: transport}
    try:
        response = client.open(
            _http_url(path),
            method="GET",
            headers=fields,
            environ_overrides=overrides,
            buffered=True,
            **options,
        )
        if response.status_code != 101 or not transport.is_served:
            raise HandshakeRefused(response)
        connection = Connection(client.application, stage, transport, fields)
        connection._run()
    except BaseException:
        # Should it be open, nobody gets to hold it.
        transport.reset()
        stage.run_quietly()
        raise
    return connection


class Connection:
    """One WebSocket of a test, as its client has it. Made by :func:`connect`.

    All handlers of the app have done what they can when one of the methods returns, those
    of other connections of the same app too. With ``app.testing`` what a handler raises and
    no ``errorhandler`` answers is raised there, once ``on_close`` has run; as for views,
    ``PROPAGATE_EXCEPTIONS`` decides where it is set.

    Use it in the thread that opened it.
    """

    #: The subprotocol that the server has chosen, or None.
    subprotocol: str | None
    #: The header fields of the 101.
    headers: Headers

    def __init__(
        self, app: Flask, stage: _Stage, transport: MemoryTransport, offered: Headers
    ) -> None:
        self._app = app
        self._stage = stage
        self._transport = transport
        self._inbox: deque[Message] = deque()
        self._unread = 0
        self._pongs: list[bytes] = []
        self._end: Close | None = None
        self._drains = False
        self.headers = _read_head(transport.attach(self), offered)
        self.subprotocol = self.headers.get("Sec-WebSocket-Protocol")
        self._protocol = ClientProtocol(agree(self.headers.get("Sec-WebSocket-Extensions", "")))

    # Sending

    def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message. When this returns, its replies are there.

        Of a handler that goes on for more than a second and looks meanwhile whether its
        client is still there, as streams do, only those so far; and half a MiB at most of
        what nobody receives. The others come as they are received.

        :param data: str goes out as text, bytes-like objects as binary. What is over 128 KiB
            is sent in fragments.
        :raises ConnectionClosed: if the connection is closed.
        :raises TypeError: if *data* is neither.
        """
        __tracebackhide__ = True
        message = as_message(data)
        self._run()
        self._require_open()
        self._transport.feed(self._protocol.encode_message(message))
        self._run()

    def send_json(self, obj: t.Any) -> None:
        """Send *obj* as JSON text, by the app's own JSON provider. Errors as for :meth:`send`."""
        __tracebackhide__ = True
        self.send(self._app.json.dumps(obj))

    def ping(self, payload: bytes = b"", timeout: float = 1.0) -> None:
        """Send a Ping, and wait for the Pong that answers it.

        :param payload: at most 125 bytes that the Pong has to repeat.
        :param timeout: seconds to wait.
        :raises AssertionError: if it does not come.
        :raises ConnectionClosed: if the connection is closed.
        :raises ValueError: if *payload* is longer.
        """
        __tracebackhide__ = True
        check_ping(payload)
        self._run()
        self._require_open()
        self._pongs.clear()
        self._transport.feed(self._protocol.encode_ping(payload))
        self._wait_for(lambda: payload in self._pongs, timeout, "no Pong came")

    # Receiving

    def receive(self, timeout: float = 1.0) -> str | bytes:
        """The next message.

        :param timeout: seconds to wait for what other threads and greenlets send, and for
            handlers that wait themselves.
        :return: str for text, bytes for binary.
        :raises AssertionError: if none comes; it says what came instead.
        """
        __tracebackhide__ = True
        if not self._inbox:
            self._wait_for(lambda: bool(self._inbox), timeout, "no message came")
        message = self._inbox.popleft()
        self._unread -= len(message)
        return message

    def receive_json(self, timeout: float = 1.0) -> t.Any:
        """The next message, which has to be JSON text, decoded by the app's own provider.

        :param timeout: as for :meth:`receive`.
        :raises AssertionError: if none comes, or one that is something else.
        """
        __tracebackhide__ = True
        message = self.receive(timeout)
        if isinstance(message, bytes):
            raise AssertionError(f"JSON was expected, a binary message came: {_brief(message)}")
        try:
            return self._app.json.loads(message)
        except ValueError as error:
            raise AssertionError(
                f"JSON was expected, other text came: {_brief(message)} ({error})"
            ) from None

    def receive_nothing(self, timeout: float = 0.0) -> None:
        """Make sure that no message has come, and that the connection is open.

        :param timeout: seconds to wait for one. None are needed for what handlers send
            before they return.
        :raises AssertionError: if one has come, or the connection is closed.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        going = True
        while going and not self._inbox and self._end is None:
            seen = self._stage.exchange.changes
            self._run()
            going = self._stage.exchange.wait(seen, deadline)
        if self._inbox:
            raise AssertionError(f"nothing was expected, a message came: {_brief(self._inbox[0])}")
        if self._end is not None:
            raise AssertionError(f"nothing was expected, {ConnectionClosed(*self._end)}")

    def __iter__(self) -> t.Iterator[str | bytes]:
        """The messages that are there, one after the other, without waiting for more."""
        __tracebackhide__ = True
        while True:
            if not self._inbox:
                self._run()
            if not self._inbox:
                return
            yield self.receive()

    # Closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection. ``on_close`` has run when this returns.

        Messages that have come by then can still be received. Closing what is closed
        changes no code.

        :param code: 1000 to 1003, 1007 to 1014, or 3000 to 4999; 1005 for none.
        :param reason: at most 123 bytes of UTF-8.
        :raises ValueError: if the code or the reason may not be sent.
        :raises AssertionError: if a handler goes on regardless for five seconds.
        """
        __tracebackhide__ = True
        frame = self._protocol.encode_close(code, reason)
        self._stage.exchange.run()
        if self._end is None:
            self._end = Close(code, reason)
            self._transport.feed(frame)
        self._finish()

    def abort(self) -> None:
        """Lose the connection, as a network does: ``on_close`` sees the code 1006."""
        __tracebackhide__ = True
        self._run()
        self._end = self._end or Close(CloseCode.ABNORMAL_CLOSURE, "")
        self._transport.reset()
        self._finish()

    @property
    def close_code(self) -> int | None:
        """Why it closed, once it has: the code of the first Close frame of either side,
        1005 if that named none, 1006 if the connection was lost without one."""
        __tracebackhide__ = True
        self._run()
        return None if self._end is None else self._end.code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with :attr:`close_code`."""
        __tracebackhide__ = True
        self._run()
        return None if self._end is None else self._end.reason

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception:
            pass  # it is logged, and what ended the block tells more

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)
        if transport is not None and not transport.is_over:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            transport.reset()

    def __repr__(self) -> str:
        state = "open" if self._end is None else f"closed with {self._end.code}"
        return f"<{type(self).__name__} {state}>"

    # The client's end of the wire

    @property
    def is_reading(self) -> bool:
        """Whether what the server sends is taken: not while much waits to be received."""
        return self._unread < BUFFER_SIZE or self._drains

    def take_in(self, data: bytes, ended: bool) -> None:
        """Take bytes of the server; answer what a client answers by itself."""
        for event in self._protocol.receive(data):
            if isinstance(event, (str, bytes)):
                self._inbox.append(event)
                self._unread += len(event)
            elif isinstance(event, Ping):
                self._transport.feed(self._protocol.encode_pong(event.payload))
            elif isinstance(event, Pong):
                self._pongs.append(event.payload)
            elif isinstance(event, Close) and self._end is None:
                self._end = event
                self._transport.feed(self._protocol.encode_close(event.code))
        if ended:
            # The server is the first to end the TCP connection (RFC 6455, section 7.1.1).
            self._end = self._end or Close(CloseCode.ABNORMAL_CLOSURE, "")
            self._transport.end_input()

    # Taking turns

    def _run(self) -> None:
        __tracebackhide__ = True
        if not self._transport.is_of_this_thread():
            raise RuntimeError(
                "A connection of a test is used in the thread that opened it. Open another one "
                "for the other thread."
            )
        self._stage.run()

    def _wait_for(self, condition: t.Callable[[], bool], timeout: float, what: str) -> None:
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while True:
            seen = self._stage.exchange.changes
            self._run()
            if condition():
                return
            if self._end is not None:
                raise AssertionError(f"{what}: {ConnectionClosed(*self._end)}")
            if not self._stage.exchange.wait(seen, deadline):
                raise AssertionError(f"{what} within {timeout:g} s")

    def _require_open(self) -> None:
        if self._end is not None:
            raise ConnectionClosed(*self._end)

    def _finish(self) -> None:
        """Let the connection's life come to its end."""
        __tracebackhide__ = True
        self._drains = True
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        exchange = self._stage.exchange
        while True:
            seen = exchange.changes
            exchange.run()
            if self._transport.is_over:
                break
            if not exchange.wait(seen, deadline):
                self._transport.reset()
                self._stage.run_quietly()
                raise AssertionError(
                    f"{self!r} has not ended within {_CLOSE_TIMEOUT:g} s: a handler goes on"
                )
        self._run()


class _Stage:
    """The connections of an app's tests, and what their handlers have raised."""

    def __init__(self, app: Flask) -> None:
        self.exchange = Exchange()
        self._errors: list[BaseException] = []
        got_request_exception.connect(self._note, app)

    def run(self) -> None:
        """Give turns to all connections, and raise what a handler has raised."""
        __tracebackhide__ = True
        self.exchange.run()
        if self._errors:
            error, *_ = self._errors
            self._errors.clear()
            raise error

    def run_quietly(self) -> None:
        """The same after an error that tells more than what is raised now, which is logged."""
        try:
            self.exchange.run()
        finally:
            self._errors.clear()

    def _note(self, app: Flask, exception: BaseException, **more: t.Any) -> None:
        # A view's comes out of the test client by itself, and a task's is its own.
        if self.exchange.is_serving() and _propagates(app):
            self._errors.append(exception)


def _stage_of(app: Flask) -> _Stage:
    stage: _Stage | None = app.extensions.get(_EXTENSION)
    return stage or t.cast(_Stage, app.extensions.setdefault(_EXTENSION, _Stage(app)))


def _propagates(app: Flask) -> bool:
    """Whether exceptions come out, as Flask decides it for views."""
    propagate: bool | None = app.config["PROPAGATE_EXCEPTIONS"]
    return (app.testing or app.debug) if propagate is None else propagate


def _http_url(url: str) -> str:
    """*url* as a server sees it: a handshake is a request of HTTP."""
    for scheme, of_http in (("ws://", "http://"), ("wss://", "https://")):
        if url.startswith(scheme):
            return of_http + url.removeprefix(scheme)
    return url


def _read_head(data: bytes, offered: Headers) -> Headers:
    """The fields of the 101, checked as a client has to (:rfc:`6455#section-4.1`)."""
    lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = Headers([t.cast("tuple[str, str]", line.split(": ", 1)) for line in lines[1:]])
    assert lines[0] == "HTTP/1.1 101 Switching Protocols", lines[0]
    assert fields["Sec-WebSocket-Accept"] == accept_key(offered["Sec-WebSocket-Key"])
    return fields


def _brief(message: Message) -> str:
    text = repr(message)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(message)} in all)"

"""The Flask view behind a socket's URL: judge the request, answer 101 or say why not.

Runs as any view does, so routing, ``before_request``, sessions, ``abort`` and error
handlers work; the connection itself begins when Flask's request is over.
"""

from __future__ import annotations

import re
import threading
import time
import typing as t

from flask import current_app
from flask import Flask
from flask import Request
from flask import request
from flask import Response
from werkzeug.routing.exceptions import WebsocketMismatch

from .config import Config
from .connection import Arrival
from .connection import WebSocket
from .context import current_request_context
from .context import SocketContext
from .dispatch import Session
from .drivers import Lease
from .drivers.servers import SUPPORTED
from .exceptions import BadHandshake
from .exceptions import ExpectationFailed
from .exceptions import OriginNotAllowed
from .exceptions import ServerUnsupported
from .exceptions import Unavailable
from .exceptions import UpgradeRequired
from .handlers import Handler
from .handlers import Handlers
from .interrupts import is_interrupt
from .protocol import Protocol
from .protocol.deflate import negotiate
from .protocol.deflate import PerMessageDeflate
from .protocol.handshake import accept_key
from .protocol.handshake import has_token
from .protocol.handshake import is_valid_key
from .protocol.handshake import normalize_origin
from .protocol.handshake import parse_extensions
from .protocol.handshake import split_tokens
from .rooms import Clients
from .rooms import Rooms

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Where the handshake travels in the WSGI environ.
ENVIRON_KEY = "flask_websockets.handshake"

#: A list is read up to this length, as by gunicorn and nginx unless they are told otherwise.
#: pywsgi takes a hundred fields of 64 KiB each, and joins those of one name.
_LONGEST_LIST = 8192
#: HTTP/1.1 or a later 1.x (:rfc:`6455#section-4.2.1`); HTTP/2 has other handshakes.
_PROTOCOLS = re.compile(r"HTTP/1\.[1-9]")
#: What no field may hold (:rfc:`9110#section-5.5`). Some servers leave a folded line as it is.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Accepted(t.NamedTuple):
    """What the view leaves behind for the middleware once it has said 101."""

    session: Session
    protocol: Protocol
    environ: WSGIEnvironment


class Places:
    """How many connections an app takes at once, with the handshakes that are under way.

    Who takes a place gives it back, once: the :class:`Handshake`, or the session that it
    has handed it over to.

    :param limit: how many there are; None for as many as come.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Take a place.

        :raises Unavailable: if there is none.
        """
        with self._lock:
            if self._limit is not None and self._taken >= self._limit:
                raise Unavailable("There are as many connections as this server takes.")
            self._taken += 1

    def give_back(self) -> None:
        """Leave the place to somebody else."""
        with self._lock:
            self._taken -= 1


class Handshake:
    """One opening handshake on its way from the middleware to the view and back.

    :param lease: the server's socket, or None if it lends none.
    """

    def __init__(self, lease: Lease | None) -> None:
        self.lease = lease
        self.accepted: Accepted | None = None
        self._places: Places | None = None  # those that it holds one of

    def take_place(self, places: Places) -> None:
        """Take a place for the connection that may come of it.

        :raises Unavailable: if there is none.
        """
        places.take()
        self._places = places

    def hand_over(self) -> None:
        """Leave the place to the session, which gives it back at its end."""
        self._places = None

    def end(self) -> None:
        """Give the place back, unless it has been handed over."""
        if self._places is not None:
            self._places.give_back()
            self._places = None


class AppState(t.Protocol):
    """What an app has, as far as a handshake is concerned."""

    config: Config
    places: Places

    def open_control(self, app: Flask) -> None:
        """Called when a handshake is accepted: commands may want to reach the connection."""


class Endpoint:
    """The view of one rule: the handlers that its connections get.

    :param handlers: those of the ``WebSockets`` object.
    :param state: gives what the app that is asked has.
    :param rooms: gives the object's rooms of that app.
    :param loop: the handler of a ``route``.
    """

    # Flask reads these of a view function.
    provide_automatic_options = False

    def __init__(
        self,
        handlers: Handlers,
        state: t.Callable[[Flask], AppState],
        rooms: t.Callable[[Flask], Rooms[WebSocket]],
        loop: Handler | None = None,
    ) -> None:
        #: For lists of what is registered.
        self.handlers = handlers
        self._state = state
        self._rooms = rooms
        self.loop = loop

    def __call__(self, **values: t.Any) -> t.Any:
        """Answer the handshake. *values* are the variables of the URL."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        state = self._state(app)
        config, places = state.config, state.places
        check_request(request)
        check_origin(request, config.allowed_origins)
        offered = _read(request, "Sec-WebSocket-Protocol", split_tokens)
        extensions = _read(request, "Sec-WebSocket-Extensions", parse_extensions)
        handshake: Handshake | None = request.environ.get(ENVIRON_KEY)
        if handshake is None or handshake.lease is None:
            raise _server_unsupported(app)
        if handshake.lease.is_stopping:
            raise Unavailable("The server is about to stop.")
        handshake.take_place(places)
        rooms = self._rooms(app)
        ws = WebSocket(config, rooms, tuple(offered))
        ws.subprotocol = next((name for name in config.subprotocols if name in offered), None)
        refusal = self._before_open(app, ws, values)
        if refusal is not None:
            return refusal
        if handshake.lease.theirs is not None:
            ws.subprotocol = None  # the 101 is sent and names none
        response = Response(status=101)
        response.headers.remove("Content-Type")
        response.headers["Upgrade"] = "websocket"
        response.headers["Connection"] = "Upgrade"
        key = request.headers["Sec-WebSocket-Key"].strip(" \t")
        response.headers["Sec-WebSocket-Accept"] = accept_key(key)
        if ws.subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = ws.subprotocol
        deflate = None
        if config.compression is not None and handshake.lease.theirs is None:
            agreed = negotiate(extensions, config.compression)
            if agreed is not None:
                deflate = PerMessageDeflate(agreed[0], config.compression)
                response.headers["Sec-WebSocket-Extensions"] = agreed[1]
        ws.arrival = Arrival(request.endpoint or "", request.path, request.remote_addr, time.time())
        session = Session(
            app,
            ws,
            self.handlers,
            current_request_context(),
            values,
            Clients(rooms),
            places.give_back,
            self.loop,
        )
        handshake.accepted = Accepted(
            session, Protocol(config.max_message_size, deflate), request.environ
        )
        if handshake.lease.transport is None:
            state.open_control(app)
        return response

    def _before_open(self, app: Flask, ws: WebSocket, values: t.Mapping[str, t.Any]) -> t.Any:
        with SocketContext(app, None, ws):
            for handler in self.handlers.before_open:
                try:
                    refusal = handler.call(None, values)
                except BaseException as error:
                    if isinstance(error, Exception) or is_interrupt(error):
                        raise
                    # Flask makes a 500 of errors; this one would end the server's task.
                    raise RuntimeError(f"{handler.name} raised {type(error).__name__}.") from error
                if refusal is not None:
                    return refusal
        return None


def check_request(request: Request) -> None:
    """Judge a request that asks for an upgrade (:rfc:`6455#section-4.2.1`).

    :raises BadHandshake: if it is malformed, or comes with more than a head.
    :raises ExpectationFailed: if it expects something.
    :raises UpgradeRequired: if it asks for another protocol or version.
    """
    _check_head(request)
    _check_body(request)
    version = request.headers.get("Sec-WebSocket-Version")
    if version is None:
        raise UpgradeRequired("The Sec-WebSocket-Version field is missing; it must be 13.")
    if version.strip(" \t") != "13":
        raise UpgradeRequired("Sec-WebSocket-Version must be 13; this server speaks no other.")
    key = request.headers.get("Sec-WebSocket-Key")
    if key is None:
        raise BadHandshake("The Sec-WebSocket-Key field is missing.")
    if not is_valid_key(key.strip(" \t")):
        raise BadHandshake("Sec-WebSocket-Key must be the base64 form of 16 bytes.")


def _check_head(request: Request) -> None:
    method, protocol = request.method, request.environ.get("SERVER_PROTOCOL", "")
    # What is said of them is what is known of them: the rest may be anything.
    if method != "GET":
        other = f", not {method}" if method.isalpha() and len(method) < 20 else ""
        raise BadHandshake(f"A WebSocket handshake is a GET request{other}.")
    if not _PROTOCOLS.fullmatch(protocol):
        other = f", not {protocol}" if protocol in ("HTTP/0.9", "HTTP/1.0") else ""
        raise BadHandshake(f"A WebSocket handshake needs HTTP/1.1{other}.")
    for name, value in request.environ.items():
        if name.startswith("HTTP_") and _CONTROLS.search(value):
            raise BadHandshake("A header field contains control characters.")
    host = request.headers.get("Host")
    if host is None:
        raise BadHandshake("The Host field is missing.")
    try:
        normalize_origin(f"http://{host}")
    except ValueError:
        raise BadHandshake("The Host field must name one host, with or without a port.") from None
    error = _no_upgrade(request)
    if error is not None:
        raise error


def _check_body(request: Request) -> None:
    # What comes behind the head is frames, and a proxy must see it in the same way.
    length = request.environ.get("CONTENT_LENGTH", "").strip(" \t")
    if length.strip("0") or "Transfer-Encoding" in request.headers:
        raise BadHandshake("A WebSocket handshake has no body.")
    if "Expect" in request.headers:
        raise ExpectationFailed("A WebSocket handshake has no body to expect an answer for.")


def check_origin(request: Request, allowed: t.Container[str]) -> None:
    """Judge from where a browser asks (:rfc:`6455#section-10.2`).

    :param allowed: the origins that are let in besides the request's own, or ``*``.
    :raises OriginNotAllowed: if it is another. Programs that name none are let in.
    """
    origin = request.headers.get("Origin")
    if origin is None or "*" in allowed:
        return
    try:
        origin = normalize_origin(origin.strip(" \t"))
        if origin in allowed or origin == normalize_origin(f"{request.scheme}://{request.host}"):
            return
    except ValueError:
        pass
    raise OriginNotAllowed(
        "The Origin field is not the scheme, host and port that this request came to, and "
        "WEBSOCKETS_ALLOWED_ORIGINS does not list it. Behind a proxy, ProxyFix has to tell "
        "the app what the browser asked for."
    )


def explain_mismatch() -> None:
    """A ``before_request`` function: say what is wrong with a plain request to a socket.

    Werkzeug's own answer is a 400 that does not tell. The exception is replaced
    and not handled here, so that the app's error handlers see it as any other.
    """
    if not isinstance(request.routing_exception, WebsocketMismatch):
        return
    error = _no_upgrade(request)
    # Without one it is a handshake at a URL that serves plain HTTP only.
    if error is not None:
        request.routing_exception = error


def _no_upgrade(request: Request) -> BadHandshake | UpgradeRequired | None:
    """What is wrong with how *request* asks for an upgrade, if anything is."""
    if not has_token(request.headers.get("Upgrade", ""), "websocket"):
        return UpgradeRequired(
            "This URL serves WebSockets only: the request must ask for Upgrade: websocket."
        )
    if not has_token(request.headers.get("Connection", ""), "upgrade"):
        return BadHandshake(
            "The Connection field of a WebSocket handshake must contain the token Upgrade."
        )
    return None


def _read(request: Request, name: str, parse: t.Callable[[str], list[t.Any]]) -> list[t.Any]:
    value = request.headers.get(name, "")
    if len(value) > _LONGEST_LIST:
        raise BadHandshake(f"The {name} field is longer than {_LONGEST_LIST} characters.")
    try:
        return parse(value)
    except ValueError:
        raise BadHandshake(f"The {name} field is malformed.") from None


def _server_unsupported(app: Flask) -> ServerUnsupported:
    server = request.environ.get("SERVER_SOFTWARE") or "This WSGI server"
    error = ServerUnsupported(
        f"{server} cannot serve WebSockets as it runs here: it lends applications no "
        f"socket, or serves one request at a time. These can: {SUPPORTED}."
    )
    app.logger.error("%s", error.description)
    return error

"""The Flask view behind a socket's URL: judge the request, answer 101 or say why not.

Runs as any view does, so routing, ``before_request``, sessions, ``abort`` and error
handlers work; the connection itself begins when Flask's request is over.
"""

from __future__ import annotations

import typing as t

from flask import current_app
from flask import Flask
from flask import Request
from flask import request
from flask import Response
from werkzeug.routing.exceptions import WebsocketMismatch

from .config import Config
from .connection import WebSocket
from .context import current_request_context
from .context import SocketContext
from .dispatch import Session
from .drivers import Lease
from .drivers.servers import SUPPORTED
from .exceptions import BadHandshake
from .exceptions import ServerUnsupported
from .exceptions import UpgradeRequired
from .handlers import Handler
from .handlers import Handlers
from .interrupts import is_interrupt
from .protocol import Protocol
from .protocol.deflate import negotiate
from .protocol.deflate import PerMessageDeflate
from .protocol.handshake import accept_key
from .protocol.handshake import is_valid_key
from .protocol.handshake import parse_extensions
from .protocol.handshake import split_tokens
from .rooms import Clients
from .rooms import Rooms

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Where the handshake travels in the WSGI environ.
ENVIRON_KEY = "flask_websockets.handshake"


class Accepted(t.NamedTuple):
    """What the view leaves behind for the middleware once it has said 101."""

    session: Session
    protocol: Protocol
    environ: WSGIEnvironment


class Handshake:
    """One opening handshake on its way from the middleware to the view and back.

    :param lease: the server's socket, or None if it lends none.
    """

    def __init__(self, lease: Lease | None) -> None:
        self.lease = lease
        self.accepted: Accepted | None = None


class Endpoint:
    """The view of one rule: the handlers that its connections get.

    :param handlers: those of the ``WebSockets`` object.
    :param rooms: gives the rooms of the app that is asked.
    :param config: gives the configuration of that app.
    :param loop: the handler of a ``route``.
    """

    # Flask reads these of a view function.
    provide_automatic_options = False

    def __init__(
        self,
        handlers: Handlers,
        rooms: t.Callable[[Flask], Rooms[WebSocket]],
        config: t.Callable[[Flask], Config],
        loop: Handler | None = None,
    ) -> None:
        self._handlers = handlers
        self._rooms = rooms
        self._config = config
        self._loop = loop

    def __call__(self, **values: t.Any) -> t.Any:
        """Answer the handshake. *values* are the variables of the URL."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        check_request(request)
        offered = _read(request, "Sec-WebSocket-Protocol", split_tokens)
        extensions = _read(request, "Sec-WebSocket-Extensions", parse_extensions)
        handshake: Handshake | None = request.environ.get(ENVIRON_KEY)
        if handshake is None or handshake.lease is None:
            raise _server_unsupported(app)
        config = self._config(app)
        ws = WebSocket(config, self._rooms(app), tuple(offered))
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
        response.headers["Sec-WebSocket-Accept"] = accept_key(
            request.headers["Sec-WebSocket-Key"].strip()
        )
        if ws.subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = ws.subprotocol
        deflate = None
        if config.compression is not None and handshake.lease.theirs is None:
            agreed = negotiate(extensions, config.compression)
            if agreed is not None:
                deflate = PerMessageDeflate(agreed[0], config.compression)
                response.headers["Sec-WebSocket-Extensions"] = agreed[1]
        session = Session(
            app,
            ws,
            self._handlers,
            current_request_context(),
            values,
            Clients(self._rooms(app)),
            self._loop,
        )
        handshake.accepted = Accepted(
            session, Protocol(config.max_message_size, deflate), request.environ
        )
        return response

    def _before_open(self, app: Flask, ws: WebSocket, values: t.Mapping[str, t.Any]) -> t.Any:
        with SocketContext(app, None, ws):
            for handler in self._handlers.before_open:
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

    :raises BadHandshake: if it is malformed.
    :raises UpgradeRequired: if it asks for another version.
    """
    if request.method != "GET":
        raise BadHandshake(f"A WebSocket handshake is a GET request, not {request.method}.")
    protocol = request.environ.get("SERVER_PROTOCOL", "")
    if protocol in ("HTTP/0.9", "HTTP/1.0"):
        raise BadHandshake(f"A WebSocket handshake needs HTTP/1.1, not {protocol}.")
    version = request.headers.get("Sec-WebSocket-Version")
    if version is None:
        raise UpgradeRequired("The Sec-WebSocket-Version field is missing; it must be 13.")
    if version.strip() != "13":
        raise UpgradeRequired("Sec-WebSocket-Version must be 13; this server speaks no other.")
    key = request.headers.get("Sec-WebSocket-Key")
    if key is None:
        raise BadHandshake("The Sec-WebSocket-Key field is missing.")
    if not is_valid_key(key.strip()):
        raise BadHandshake("Sec-WebSocket-Key must be the base64 form of 16 bytes.")


def explain_mismatch() -> None:
    """A ``before_request`` function: say what is wrong with a plain request to a socket.

    Werkzeug's own answer is a 400 that does not tell. The exception is replaced
    and not handled here, so that the app's error handlers see it as any other.
    """
    if not isinstance(request.routing_exception, WebsocketMismatch):
        return
    upgrade = request.headers.get("Upgrade", "").lower()
    connection = request.headers.get("Connection", "").lower()
    tokens = [token.strip() for token in connection.split(",")]
    if upgrade == "websocket" and "upgrade" in tokens:
        return  # a handshake at a URL that serves plain HTTP only
    if upgrade == "websocket":
        request.routing_exception = BadHandshake(
            "The Connection field of a WebSocket handshake must contain the token Upgrade."
        )
    else:
        request.routing_exception = UpgradeRequired(
            "This URL serves WebSockets only: the request must ask for Upgrade: websocket."
        )


def _read(request: Request, name: str, parse: t.Callable[[str], list[t.Any]]) -> list[t.Any]:
    try:
        return parse(request.headers.get(name, ""))
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

"""The WSGI entry: let plain requests through, shake hands with the others, and serve.

Knows WSGI and nothing of messages: a connection's life is the session's.
"""

from __future__ import annotations

import typing as t
from io import BytesIO
from itertools import chain

from werkzeug.wsgi import ClosingIterator

from .drivers import lease_socket
from .drivers import Transport
from .drivers.servers import end_response
from .drivers.servers import Fields
from .handshake import ENVIRON_KEY
from .handshake import Handshake
from .protocol import CloseCode
from .protocol import Protocol
from .protocol.handshake import has_token

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIApplication
    from _typeshed.wsgi import WSGIEnvironment

#: Fields of a response with a body, which a 101 has not (:rfc:`9110#section-15.2`).
_BODY_FIELDS = frozenset({"content-length", "content-type", "transfer-encoding"})


class WebSocketMiddleware:
    """Serves the connections that the wrapped application answers with 101.

    :param wsgi_app: the application, or what is wrapped around it already.
    """

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self.wsgi_app = wsgi_app

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> t.Iterable[bytes]:
        """Handle one request, or one connection from its handshake to its end."""
        if not has_token(environ.get("HTTP_UPGRADE", ""), "websocket"):
            return self.wsgi_app(environ, start_response)
        # Werkzeug finds the rules of sockets where no other protocol is asked for.
        environ["HTTP_UPGRADE"] = "websocket"
        handshake = environ[ENVIRON_KEY] = Handshake(lease_socket(environ))
        try:
            return self._shake_hands(handshake, environ, start_response)
        finally:
            handshake.end()

    def _shake_hands(
        self, handshake: Handshake, environ: WSGIEnvironment, start_response: StartResponse
    ) -> t.Iterable[bytes]:
        response: list[tuple[str, Fields]] = []

        def capture(status: str, fields: Fields, exc_info: t.Any = None) -> t.Any:
            response[:] = [(status, fields)]
            if handshake.accepted is not None and status.startswith("101"):
                return _write_nothing
            if handshake.lease is not None and handshake.lease.theirs is None:
                fields = handshake.lease.refuse(start_response, fields)
            return start_response(status, fields, exc_info)

        body = self.wsgi_app(environ, capture)
        if not response:
            # Middleware written as a generator calls the app when it is first read.
            body = _start(body)
        status, fields = response[0]
        if handshake.lease is None:
            return body
        if handshake.accepted is None or not status.startswith("101"):
            if handshake.lease.theirs is None or status < "300":
                return body
            # The server has said 101 already, so the refusal is a close code.
            _close_body(body)
            _refuse(handshake.lease.open(start_response), status)
            return []
        _close_body(body)
        head = b"" if handshake.lease.theirs is not None else _head(fields)
        session, protocol, inner = handshake.accepted
        # The environ that the request has, which may be a copy, stays with the connection;
        # what refers to the server's socket does not.
        for each in (environ, inner):
            each.pop(ENVIRON_KEY, None)
            each["wsgi.input"] = BytesIO()
        transport = handshake.lease.open(start_response)
        try:
            session.ws.open(transport, protocol, head, session.before_close)
        except OSError:
            transport.close()  # the client did not wait for its 101
        else:
            handshake.hand_over()
            transport.serve(session)
        return end_response(start_response, fields)


def _refuse(transport: Transport, status: str) -> None:
    """Close a connection that a server has opened before it could be refused."""
    try:
        frame = Protocol.encode_close(CloseCode.POLICY_VIOLATION, status[:100])
        transport.queue(frame)
        transport.flush(1.0)
        transport.end_output()
        transport.read(1.0)
    except OSError:
        pass
    finally:
        transport.close()


def _head(fields: Fields) -> bytes:
    lines = ["HTTP/1.1 101 Switching Protocols"]
    lines += [f"{name}: {value}" for name, value in fields if name.lower() not in _BODY_FIELDS]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _start(body: t.Iterable[bytes]) -> t.Iterable[bytes]:
    """Read *body* up to its first piece, and give back the same from the beginning."""
    iterator = iter(body)
    first = next(iterator, b"")
    return ClosingIterator(chain([first], iterator), getattr(body, "close", None))


def _close_body(body: t.Any) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _write_nothing(data: bytes) -> None:
    """Stands in for the ``write`` of a response that has no body."""

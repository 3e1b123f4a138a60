"""Which server lends its socket how.

WSGI has no word for it, so each server is asked in its own way. A server that is
asked for its socket keeps the descriptor and closes it when the application has
returned; until then the connection is ours.
"""

from __future__ import annotations

import _socket
import importlib.util
import socket
import typing as t

from .base import Transport
from .process import current_process

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIEnvironment

Fields = list[tuple[str, str]]

#: For the error that a server without a socket to lend gets.
SUPPORTED = (
    "gevent's pywsgi (with or without gevent-websocket's WebSocketHandler), gunicorn "
    "(worker classes gthread, gevent and gevent_pywsgi), flask run and app.run()"
)


class Lease(t.NamedTuple):
    """A socket that a server lends, and how to take what it has read ahead.

    :param sock: the socket.
    :param take_early: gives what the server has read beyond the request.
    :param theirs: the WebSocket of a server that has already answered 101 by itself.
    """

    sock: socket.socket
    take_early: t.Callable[[], bytes]
    theirs: t.Any = None

    @property
    def is_stopping(self) -> bool:
        """Whether the server is about to end, and takes no more connections."""
        if _is_gevent(self.sock):
            from .gevent import is_stopping

            return is_stopping()
        return current_process().is_stopping

    def open(self, start_response: StartResponse) -> Transport:
        """Take the socket over for good.

        :param start_response: the server's.
        """
        if self.theirs is not None:
            self.theirs.closed = True  # or it would send a Close frame of its own
        # The server's last read must not wait for bytes that are not there.
        self.sock.settimeout(0)
        early = self.take_early()
        if _is_gevent(self.sock):
            from .gevent import open_transport

            return open_transport(self.sock, early, getattr(start_response, "__self__", None))
        from .threads import ThreadTransport

        return ThreadTransport(self.sock, early)

    def refuse(self, start_response: StartResponse, fields: Fields) -> Fields:
        """Let the response be the last: what came behind the request was meant for a socket.

        A server that reads a request's body to its end before it closes, as pywsgi
        does, gets to its end at once.

        :param start_response: the server's.
        :param fields: those of the response.
        :return: the fields to send.
        """
        response: t.Any = getattr(start_response, "__self__", None)
        if hasattr(response, "force_close"):
            response.force_close()  # gunicorn goes by this, the others by the field
        try:
            # Not the method of a TLS socket: that would end its encryption.
            _socket.socket.shutdown(getattr(self.sock, "_sock", self.sock), socket.SHUT_RD)
        except OSError:
            pass  # the client has left
        return [*fields, ("Connection", "close")]


def lease_socket(environ: WSGIEnvironment) -> Lease | None:
    """Ask the server behind *environ* for the connection's socket.

    :return: None if it lends none.
    """
    stream = environ.get("wsgi.input")
    # pywsgi wraps its reader for requests that ask for several protocols.
    stream = getattr(stream, "rfile", stream)
    theirs = environ.get("wsgi.websocket")
    if theirs is not None:
        # gevent-websocket's handler around an application that is not known to be
        # ours: it has sent its 101. Take the socket from under its WebSocket.
        handler = theirs.handler
        return Lease(handler.socket, lambda: _read_ahead(handler.rfile), theirs)
    sock = environ.get("werkzeug.socket")
    if sock is not None and (environ["wsgi.multithread"] or environ["wsgi.multiprocess"]):
        return Lease(sock, lambda: _read_ahead(stream))
    sock = environ.get("gunicorn.sock")
    if sock is not None:
        return Lease(sock, lambda: _read_ahead(stream))
    sock = environ.get("gunicorn.socket")
    # The sync worker lends its socket too, but would serve nobody else meanwhile.
    if sock is not None and environ["wsgi.multithread"]:
        return Lease(sock, lambda: _unread(stream))
    # pywsgi hands out its buffered reader when an upgrade is asked for.
    sock = getattr(getattr(stream, "raw", None), "_sock", None)
    if sock is not None and _is_gevent(sock):
        return Lease(sock, lambda: _read_ahead(stream))
    return None


def end_response(start_response: StartResponse, fields: Fields) -> list[bytes]:
    """Give the server what it needs to log the request, once the socket is shut down.

    Whatever it still writes goes nowhere; each of them takes that for a client that
    has left. pywsgi alone would log the error in place of the status.

    :param fields: those of the 101.
    :return: the response's body for the server.
    """
    start_response("101 Switching Protocols", fields)
    handler: t.Any = getattr(start_response, "__self__", None)
    if hasattr(handler, "headers_sent") and hasattr(handler, "close_connection"):
        handler.headers_sent = True
        handler.close_connection = True
    return []


def adopt_servers(claims: t.Callable[[t.Any], bool]) -> None:
    """Make servers that upgrade by themselves leave it to us for our applications.

    :param claims: whether a WSGI application is one of ours.
    """
    if importlib.util.find_spec("geventwebsocket") is not None:
        from .pywsgi import adopt_gevent_websocket

        adopt_gevent_websocket(claims)


def _is_gevent(sock: object) -> bool:
    return any(cls.__module__.startswith("gevent.") for cls in type(sock).__mro__)


def _read_ahead(stream: t.Any) -> bytes:
    """What a BufferedReader over a socket that does not block holds."""
    try:
        return t.cast(bytes, stream.read1(len(stream.peek())))
    except (AttributeError, OSError):
        return b""  # not such a reader, nothing there, or the client has left


def _unread(body: t.Any) -> bytes:
    """What gunicorn's parser read beyond the request."""
    buffer = getattr(getattr(getattr(body, "reader", None), "unreader", None), "buf", None)
    if buffer is None:
        return b""
    data: bytes = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return data

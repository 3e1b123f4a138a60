"""gevent's servers: how one forgets a socket, says goodbye, and shakes no hands itself.

Knows gevent's pywsgi, the servers that are built on it, and gevent-websocket's handler.
"""

from __future__ import annotations

import functools
import time
import typing as t

import gevent
from gevent.baseserver import BaseServer
from gevent.hub import get_hub
from gevent.pywsgi import WSGIHandler

#: How long a server that stops waits for its connections, in seconds.
_FAREWELL = 10.0

#: The attribute of a server that holds what is to be told when it stops.
_MEMBERS = "_flask_websockets"


class Member(t.Protocol):
    """A connection, as far as its server is concerned."""

    def go_away(self) -> None:
        """Start the closing handshake; may wait."""

    def kill(self) -> None:
        """End it without waiting."""


def join_server(member: Member) -> set[Member]:
    """Let the server that serves the current greenlet tell *member* when it stops.

    :return: the server's members, for *member* to be taken out of when it is over.
    """
    server = _current_server()
    if server is None:
        return set()
    members: set[Member] = server.__dict__.setdefault(_MEMBERS, set())
    if "close" not in server.__dict__:
        # Both stop() and gunicorn's workers call it first.
        server.close = functools.partial(_close, server.close, members)
    members.add(member)
    return members


def _current_server() -> t.Any:
    """The server that has spawned the current greenlet, which knows it by its last argument."""
    for argument in getattr(gevent.getcurrent(), "args", ()):
        owner = getattr(argument, "__self__", None)
        if isinstance(owner, BaseServer):
            return owner
    return None


def _close(close: t.Callable[[], None], members: set[Member]) -> None:
    """Close a server's listener, and then its connections with 1001."""
    close()
    if not members or gevent.getcurrent() is get_hub():
        return  # nobody there, or a fatal error of the listener, which the others outlive
    deadline = time.monotonic() + _FAREWELL
    for member in list(members):
        gevent.spawn(member.go_away)
    _wait_for_end(members, deadline)
    for member in list(members):
        member.kill()  # its handler still waits
    _wait_for_end(members, time.monotonic() + 1)


def _wait_for_end(members: set[Member], deadline: float) -> None:
    while members and time.monotonic() < deadline:
        gevent.sleep(0.01)


def can_forget_socket(handler: t.Any) -> bool:
    """Whether a server's handler of a request ends and touches nothing once it has no socket.

    :param handler: what has called the application.
    """
    return isinstance(handler, WSGIHandler)


def adopt_gevent_websocket(claims: t.Callable[[t.Any], bool]) -> None:
    """Keep gevent-websocket's handler from shaking hands for our applications.

    It sends its 101 before the application is called, so that nothing could be
    refused, no cookie set, no subprotocol or extension agreed; and it logs no 101.
    For the applications that *claims* says are ours it does what pywsgi's own handler
    does; all others get what they always got.

    :param claims: whether a WSGI application is one of ours.
    """
    from geventwebsocket.handler import WebSocketHandler

    if hasattr(WebSocketHandler, "flask_websockets"):
        return
    WebSocketHandler.flask_websockets = True
    for name in ("run_application", "log_request"):
        theirs, plain = getattr(WebSocketHandler, name), getattr(WSGIHandler, name)
        setattr(WebSocketHandler, name, _choose(claims, theirs, plain))


def _choose(
    claims: t.Callable[[t.Any], bool],
    theirs: t.Callable[[t.Any], t.Any],
    plain: t.Callable[[t.Any], t.Any],
) -> t.Callable[[t.Any], t.Any]:
    """A method that is *plain* for our applications, else *theirs*."""

    @functools.wraps(theirs)
    def method(self: t.Any) -> t.Any:
        return plain(self) if claims(self.application) else theirs(self)

    return method

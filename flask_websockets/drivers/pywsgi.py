"""gevent's servers: how one forgets a socket, says goodbye, and shakes no hands itself.

Knows gevent's pywsgi, the servers that are built on it, and gevent-websocket's handler.
"""

from __future__ import annotations

import functools
import typing as t

import gevent
from gevent.baseserver import BaseServer
from gevent.hub import get_hub
from gevent.pywsgi import WSGIHandler

from .process import gunicorn_worker
from .stopping import Company
from .stopping import GOING_AWAY

#: The attribute of a server that holds its connections.
_COMPANY = "_flask_websockets"


def company_of_server() -> Company | None:
    """The connections of the server that serves the current greenlet.

    They are dismissed once it stops.

    :return: None where no server of gevent's serves it.
    """
    server = current_server()
    if server is None:
        return None
    company: Company | None = server.__dict__.get(_COMPANY)
    if company is None:
        company = server.__dict__[_COMPANY] = Company(gevent.spawn, gevent.sleep)
        # Both stop() and gunicorn's workers call it first.
        server.close = functools.partial(_close, server.close, company)
    return company


def current_server() -> t.Any:
    """The server that has spawned the current greenlet, which knows it by its last argument."""
    for argument in getattr(gevent.getcurrent(), "args", ()):
        owner = getattr(argument, "__self__", None)
        if isinstance(owner, BaseServer):
            return owner
    return None


def _close(close: t.Callable[[], None], company: Company) -> None:
    """Close a server's listener, and then its connections with 1001."""
    close()
    if not len(company) or gevent.getcurrent() is get_hub():
        return  # nobody there, or a fatal error of the listener, which the others outlive
    worker = gunicorn_worker()
    company.dismiss(GOING_AWAY, bool if worker is None else worker.is_hurried)


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

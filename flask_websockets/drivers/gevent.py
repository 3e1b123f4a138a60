"""Bytes over gevent's sockets, and gevent-websocket's handler out of the way.

The only file that imports gevent.
"""

from __future__ import annotations

import functools
import socket
import typing as t

import gevent
from gevent.hub import get_hub
from gevent.monkey import get_original
from gevent.pywsgi import WSGIHandler

from .base import T
from .base import Transport

# The real ones, whether or not the program is monkey-patched.
_native_thread = get_original("threading", "get_ident")
_native_lock = get_original("_thread", "allocate_lock")

_READ, _WRITE = 1, 2


class GeventTransport(Transport):
    """Waits in gevent's hub.

    Greenlets of one hub never run at once, so what does not wait needs no lock.
    Other native threads hand their calls to the hub of the connection.
    """

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._hub = get_hub()
        self._thread = _native_thread()
        self._greenlet = gevent.getcurrent()
        self._waiting = 0

    def run(self, function: t.Callable[..., T], *args: t.Any) -> T:
        return function(*args)

    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        if _native_thread() == self._thread:
            return function(*args)
        greenlet: list[gevent.Greenlet[..., T]] = []
        done = _native_lock()
        done.acquire()

        def start() -> None:
            greenlet.append(gevent.spawn(_capture, function, args))
            greenlet[0].rawlink(lambda _: done.release())

        self._hub.loop.run_callback_threadsafe(start)
        done.acquire()
        return t.cast(T, _release(greenlet[0].value))

    def spawn(self, function: t.Callable[[], object]) -> None:
        gevent.spawn(function)

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        gevent.spawn_later(seconds, function)

    def is_serving(self) -> bool:
        return gevent.getcurrent() is self._greenlet

    def _let_go(self) -> None:
        # libev aborts the process if a descriptor is closed under a watcher.
        while self._waiting:
            gevent.sleep(0)

    def _wait_readable(self, timeout: float | None) -> bool:
        return self._wait(_READ, timeout)

    def _wait_writable(self, timeout: float | None) -> bool:
        return self._wait(_WRITE, timeout)

    def _wait(self, event: int, timeout: float | None) -> bool:
        if self._closed:
            return True  # to the error that the next call gets
        watcher = self._hub.loop.io(self._socket.fileno(), event)
        self._waiting += 1
        try:
            ready = False
            with gevent.Timeout(timeout, False):
                self._hub.wait(watcher)
                ready = True
            return ready
        finally:
            watcher.close()
            self._waiting -= 1


def _capture(function: t.Callable[..., t.Any], args: tuple[t.Any, ...]) -> tuple[t.Any, t.Any]:
    """A greenlet that dies of an exception prints it; this one brings it back."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def _release(outcome: tuple[t.Any, BaseException | None]) -> t.Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


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

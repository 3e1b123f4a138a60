"""The ``ws`` proxy, and the Flask contexts that one message is handled in.

The one place that knows how Flask's contexts are copied, pushed and popped.
"""

from __future__ import annotations

import functools
import typing as t
from contextvars import ContextVar
from contextvars import Token

from flask import Flask
from flask.globals import app_ctx
from werkzeug.local import LocalProxy

from .connection import WebSocket

P = t.ParamSpec("P")
R = t.TypeVar("R")

_UNBOUND = """\
Working outside of a socket context.

`ws` stands for the connection whose handler is running, and none is here. Use it
in a handler; in a view, use broadcast() or clients of your WebSockets object; in
a greenlet or thread of your own, decorate its function in the handler with
copy_current_socket_context."""

_cv_socket: ContextVar[SocketContext] = ContextVar("flask_websockets.socket_context")

#: The connection whose handler is running; what ``flask.request`` is to a request.
ws: WebSocket = LocalProxy(_cv_socket, "ws", unbound_message=_UNBOUND)  # type: ignore[assignment]


class SocketContext:
    """The contexts of one message: ``ws``, a new ``g``, the handshake's ``request``
    and ``session``.

    When it is popped, the functions of ``teardown_request`` and
    ``teardown_appcontext`` run, so that nothing is held between two messages.

    :param app: the application.
    :param request: the handshake's request context, of which a copy is pushed; None
        inside the handshake itself, where it is pushed already.
    :param ws: the connection.
    """

    def __init__(self, app: Flask, request: t.Any, ws: WebSocket) -> None:
        self.app = app
        self.ws = ws
        self._request = request
        self._pushed: list[t.Any] = []
        self._token: Token[SocketContext] | None = None

    def push(self) -> None:
        """Make the contexts the current ones."""
        self._token = _cv_socket.set(self)
        if self._request is None:
            return
        try:
            self._push_copy()
        except BaseException as error:
            self.pop(error)
            raise

    def pop(self, error: BaseException | None = None) -> None:
        """Run the teardown functions and take the contexts away again.

        :param error: passed to the teardown functions.
        """
        try:
            if self._pushed:
                self._pushed.pop().pop(error)
        finally:
            # Whatever a teardown function raises, nothing stays behind.
            if self._pushed:
                self.pop(error)
            else:
                assert self._token is not None
                _cv_socket.reset(self._token)

    def copy(self) -> SocketContext:
        """A context of the same connection, to be pushed somewhere else."""
        return SocketContext(self.app, self._request, self.ws)

    def __enter__(self) -> SocketContext:
        self.push()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.pop(error)

    def _push_copy(self) -> None:
        copy = self._request.copy()
        # The URL was matched in the handshake; a converter may be costly.
        copy.match_request = _do_nothing
        contexts = [copy]
        if not hasattr(copy, "g"):
            # Flask up to 3.1: a request context borrows the g of an outer context,
            # so it gets one of its own beneath it.
            contexts.insert(0, self.app.app_context())
        for context in contexts:
            context.push()
            self._pushed.append(context)


def has_socket_context() -> bool:
    """Whether a handler of a connection is running: True in handlers, False in views."""
    return _cv_socket.get(None) is not None


def copy_current_socket_context(f: t.Callable[P, R]) -> t.Callable[P, R]:
    """Let *f* run in a greenlet or thread of its own with ``ws`` and Flask's contexts.

    Each call has a ``g`` of its own and runs the teardown functions when it returns.

    :raises RuntimeError: outside of a handler.
    """
    current = _cv_socket.get(None)
    if current is None:
        raise RuntimeError(
            "There is no socket context to copy. Call copy_current_socket_context "
            "in a handler, or use it as a decorator there."
        )
    if current._request is None:
        raise RuntimeError("The connection is not open yet. Start tasks from on_open onwards.")
    original = current

    @functools.wraps(f)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with original.copy():
            return f(*args, **kwargs)

    return wrapper


def copy_request_context() -> t.Any:
    """A copy of the current request context that later ones can be copied from."""
    current: t.Any = app_ctx._get_current_object()  # type: ignore[attr-defined]
    if not hasattr(current, "request"):
        # Flask up to 3.1 keeps the request in a context of its own.
        from flask.globals import request_ctx

        current = request_ctx._get_current_object()  # type: ignore[attr-defined]
    return current.copy()


def _do_nothing() -> None:
    """Stands in for matching the URL again."""

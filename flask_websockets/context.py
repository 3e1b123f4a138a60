"""The ``ws`` proxy, and the Flask contexts that one message is handled in.

The one place that knows how Flask's contexts are copied, pushed and popped.
"""

from __future__ import annotations

import functools
import typing as t
from contextvars import Context
from contextvars import ContextVar
from contextvars import Token

from flask import appcontext_popped
from flask import appcontext_pushed
from flask import appcontext_tearing_down
from flask import Flask
from flask import request_tearing_down
from flask.globals import _cv_app
from flask.globals import app_ctx
from werkzeug.local import LocalProxy

from .connection import WebSocket

P = t.ParamSpec("P")
R = t.TypeVar("R")
T = t.TypeVar("T")

_UNBOUND = """\
Working outside of a socket context.

`ws` stands for the connection whose handler is running, and none is here. Use it
in a handler; in a view, use broadcast() or clients of your WebSockets object; in
a greenlet or thread of your own, decorate its function in the handler with
copy_current_socket_context."""

#: Who watches what a turn does with the contexts.
_pushed = appcontext_pushed.receivers
_popped = appcontext_popped.receivers
_request_tearing_down = request_tearing_down.receivers
_app_tearing_down = appcontext_tearing_down.receivers

_cv_socket: ContextVar[SocketContext] = ContextVar("flask_websockets.socket_context")


class _Proxy(LocalProxy[WebSocket]):
    """Werkzeug's proxy with a shorter way to what a WebSocket has."""

    __slots__ = ()


def _forward(name: str) -> property:
    def get(self: _Proxy) -> t.Any:
        try:
            context = _cv_socket.get()
        except LookupError:
            raise RuntimeError(_UNBOUND) from None
        return getattr(context.ws, name)

    return property(get)


for _name in dir(WebSocket):
    if not _name.startswith("_"):
        # Found at once, where __getattr__ is asked only after a search and an exception.
        setattr(_Proxy, _name, _forward(_name))

#: The connection whose handler is running; what ``flask.request`` is to a request.
ws: WebSocket = _Proxy(  # type: ignore[assignment]
    _cv_socket,  # type: ignore[arg-type]
    "ws",
    unbound_message=_UNBOUND,
)


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

    @property
    def path(self) -> str:
        """The path of the handshake's URL."""
        return t.cast(str, self._request.request.path)

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
            # First: it is current when a receiver of appcontext_pushed fails.
            self._pushed.append(context)
            context.push()


class ConnectionContext:
    """The contexts of one connection, kept for all its turns.

    A turn finds them as a push of :class:`SocketContext` would leave them, and leaves
    them as its pop would: it has a ``g`` of its own and runs the teardown functions.
    They are made once, which is most of what a push costs, and are current in a turn only.

    :param app: the application.
    :param request: the handshake's request context.
    :param ws: the connection.
    """

    __slots__ = (
        "_app",
        "_app_functions",
        "_globals",
        "_is_entered",
        "_new_globals",
        "_request",
        "_request_functions",
        "_run",
        "_ws",
    )

    def __init__(self, app: Flask, request: t.Any, ws: WebSocket) -> None:
        self._app = app
        self._request = request
        self._ws = ws
        # What has g: Flask up to 3.1 keeps the request in a context of its own.
        self._globals = request if hasattr(request, "g") else app.app_context()
        self._new_globals = app.app_ctx_globals_class
        # The very containers that registering adds to: a look at each is all that
        # a turn costs where nothing is registered.
        self._request_functions = app.teardown_request_funcs
        self._app_functions = app.teardown_appcontext_funcs
        self._is_entered = False
        self._run = Context().run
        self._run(self._enter)

    def run(self, function: t.Callable[[T], R], argument: T) -> R:
        """Call *function* within the contexts. What it raises, teardown functions see."""
        if self._is_entered:
            # A turn within a turn, or beside one: close() in a handler calls before_close.
            with SocketContext(self._app, self._request, self._ws):
                return function(argument)
        # No thread can come between the look and the mark: there is no call in between.
        self._is_entered = True
        try:
            return self._run(self._turn, function, argument)
        finally:
            self._is_entered = False

    def _enter(self) -> None:
        # No tokens are kept: they would refer to the Context that refers to them.
        _cv_socket.set(SocketContext(self._app, self._request, self._ws))
        _cv_app.set(self._globals)
        if self._globals is not self._request:
            from flask.globals import _cv_request

            _cv_request.set(self._request)

    def _turn(self, function: t.Callable[[T], R], argument: T) -> R:
        try:
            if _pushed:
                appcontext_pushed.send(self._app, _async_wrapper=self._app.ensure_sync)
            result = function(argument)
        except BaseException as error:
            self._tear_down(error)
            raise
        self._tear_down(None)
        return result

    def _tear_down(self, error: BaseException | None) -> None:
        app, request = self._app, self._request
        try:
            if self._request_functions or _request_tearing_down:
                app.do_teardown_request(*self._given(error))
        finally:
            try:
                if self._app_functions or _app_tearing_down:
                    app.do_teardown_appcontext(*self._given(error))
            finally:
                self._globals.g = self._new_globals()
                if request.flashes is not None:
                    request.flashes = None
                if request._after_request_functions:
                    request._after_request_functions.clear()
        if _popped:
            appcontext_popped.send(app, _async_wrapper=app.ensure_sync)

    def _given(self, error: BaseException | None) -> tuple[t.Any, ...]:
        # From Flask 3.2 on these functions take the context first.
        return (error,) if self._globals is not self._request else (self._request, error)


def has_socket_context() -> bool:
    """Whether a handler of a connection is running: True in handlers, False in views."""
    return _cv_socket.get(None) is not None


def copy_current_socket_context(f: t.Callable[P, R]) -> t.Callable[P, R]:
    """Let *f* run in a greenlet or thread of its own with ``ws`` and Flask's contexts.

    Each call has a ``g`` of its own and runs the teardown functions when it returns.

    :raises RuntimeError: outside of a handler.
    """
    original = current_socket_context(
        "There is no socket context to copy. Call copy_current_socket_context "
        "in a handler, or use it as a decorator there."
    )

    @functools.wraps(f)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with original.copy():
            return f(*args, **kwargs)

    return wrapper


def current_socket_context(hint: str) -> SocketContext:
    """That of the handler that is running, for a task.

    :param hint: what to say where there is none.
    :raises RuntimeError: outside of a handler, and in the handshake.
    """
    current = _cv_socket.get(None)
    if current is None:
        raise RuntimeError(hint)
    if current._request is None:
        raise RuntimeError("The connection is not open yet. Start tasks from on_open onwards.")
    return current


def current_request_context() -> t.Any:
    """Flask's context of the current request, which can be kept once it is popped."""
    current: t.Any = app_ctx._get_current_object()  # type: ignore[attr-defined]
    if not hasattr(current, "request"):
        # Flask up to 3.1 keeps the request in a context of its own.
        from flask.globals import request_ctx

        current = request_ctx._get_current_object()  # type: ignore[attr-defined]
    return current


def _do_nothing() -> None:
    """Stands in for matching the URL again."""

"""What users hold: a WebSockets object is one endpoint with its handlers."""

from __future__ import annotations

import os
import re
import sys
import types
import typing as t
import warnings

from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import has_app_context
from flask.sansio.blueprints import BlueprintSetupState

from .cli import COMMAND
from .cli import Commands
from .config import Config
from .connection import as_message
from .connection import WebSocket
from .dispatch import response_message
from .drivers import adopt_servers
from .handlers import Handler
from .handlers import Handlers
from .handlers import JSONHandler
from .handlers import MessageHandler
from .handlers import PatternHandler
from .handshake import Endpoint
from .handshake import explain_mismatch
from .handshake import Places
from .linear import import_re2
from .middleware import WebSocketMiddleware
from .patterns import find_pump
from .rooms import Clients
from .rooms import Message
from .rooms import Rooms
from .tasks import spawn

if t.TYPE_CHECKING:
    from .typed import Types

F = t.TypeVar("F", bound=t.Callable[..., t.Any])
P = t.ParamSpec("P")
Pattern = t.Union[str, bytes, "re.Pattern[str]", "re.Pattern[bytes]"]

_EXTENSION = "websockets"


class _Rule(t.NamedTuple):
    path: str
    endpoint: str
    loop: Handler | None


class _Registered(t.NamedTuple):
    """A handler with a pattern, and the line that registered it."""

    handler: PatternHandler
    filename: str
    line: int


class _AppState:
    """What an app has of this extension, in ``app.extensions["websockets"]``."""

    def __init__(self, app: Flask) -> None:
        self.config = Config.from_mapping(app.config)
        self.places = Places(self.config.max_connections)
        self.rooms: dict[WebSockets, Rooms[WebSocket]] = {}
        app.before_request(explain_mismatch)
        app.wsgi_app = WebSocketMiddleware(app.wsgi_app)  # type: ignore[method-assign]
        adopt_servers(_is_ours)
        if COMMAND not in app.cli.commands:
            app.cli.add_command(Commands())
        #: The processes that have opened their control socket: one, and its forks.
        self._controlled: dict[int, object] = {}

    def open_control(self, app: Flask) -> None:
        """Let commands reach this process: once, with the first connection."""
        pid, mark = os.getpid(), object()
        # One thread finds its own mark there, whichever comes first.
        if pid in self._controlled or self._controlled.setdefault(pid, mark) is not mark:
            return
        if not self.config.control or app.testing:
            return
        from .control import open_control

        try:
            open_control(app, self)
        except (OSError, RuntimeError) as error:
            app.logger.warning(
                "Commands such as flask websockets clients cannot reach this process: %s. "
                "WEBSOCKETS_CONTROL = False leaves them out.",
                error,
            )


def _state(app: Flask) -> _AppState:
    return t.cast(_AppState, app.extensions[_EXTENSION])


class WebSockets:
    """One socket endpoint and its handlers.

    Attach it to an app at once, later with :meth:`init_app`, to several apps, or to a
    blueprint, whose ``url_prefix`` then applies. An app can have as many as wanted,
    each with an *endpoint* of its own.

    :param app: the app or blueprint.
    :param path: the URL rule, with variables and converters as in ``app.route``. A
        plain HTTP view may have the same rule. None for no rule but those of
        :meth:`route`.
    :param endpoint: the rule's name: ``url_for("websocket")`` gives its
        ``ws://`` or ``wss://`` URL.
    :param match_one: whether only the first handler that hears a message is called.
    """

    def __init__(
        self,
        app: Flask | Blueprint | None = None,
        *,
        path: str | None = "/",
        endpoint: str = "websocket",
        match_one: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._handlers = Handlers(match_one)
        self._types: Types | None = None  # those of on_json
        self._rules: list[_Rule] = []
        #: Adds one rule to what this object is attached to; one for each.
        self._attached: list[t.Callable[[_Rule], None]] = []
        self._apps: list[Flask] = []
        #: What the rules' variables are, known once a prefix can no longer add to them.
        self._variables: list[tuple[_Rule, frozenset[str]]] = []
        #: The handlers, with the names that are filled otherwise.
        self._known: list[tuple[Handler, frozenset[str]]] = []
        self._patterns: list[_Registered] = []
        #: What matches them; None as long as no app has said.
        self._regex: str | None = None
        if path is not None:
            self._add_rule(_Rule(path, endpoint, None))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask | Blueprint) -> None:
        """Attach the endpoint to *app*. Read its configuration, add its rules.

        :param app: an app, or a blueprint, which attaches it to each app that it is
            registered on.
        :raises ValueError: if a ``WEBSOCKETS_`` key of the configuration cannot be, or
            ``WEBSOCKETS_REGEX`` is ``"re2"`` and RE2 cannot express a pattern.
        :raises RuntimeError: if the endpoint's name is taken in that app, or google-re2
            is asked for and missing.
        """
        if isinstance(app, Blueprint):
            app.record(self._register)
            return
        self._attach(app, lambda rule: self._add_to_app(app, rule))

    # Handlers of messages

    @t.overload
    def on_message(self, pattern: F, /) -> F: ...

    @t.overload
    def on_message(
        self, pattern: Pattern | None = None, flags: int = 0, /
    ) -> t.Callable[[F], F]: ...

    @t.overload
    def on_message(
        self, pattern: Pattern | None = None, *, flags: int = 0
    ) -> t.Callable[[F], F]: ...

    def on_message(self, pattern: t.Any = None, flags: int = 0) -> t.Any:
        """Hear messages: ``@on_message`` all of them, ``@on_message(pattern)`` some.

        The handler is given the message, and by name what it wants of the pattern's
        named groups and the URL's variables. What it returns is sent.

        :param pattern: tried with ``re.match``. A str pattern sees text, a bytes
            pattern sees binary. Handlers with a pattern go before those without.
        :param flags: as for ``re.compile``.
        :raises TypeError: if the handler wants a name that nothing can fill.
        :raises ValueError: if ``WEBSOCKETS_REGEX`` is ``"re2"`` and RE2 cannot express
            the pattern.
        """
        if callable(pattern):
            return self.on_message()(pattern)
        if pattern is None:
            return lambda function: self._add_message(function, MessageHandler(function))
        if not isinstance(pattern, (str, bytes, re.Pattern)):
            raise TypeError(
                f"A pattern is str, bytes or compiled by re, not {type(pattern).__name__}."
            )
        compiled: re.Pattern[t.Any] = re.compile(pattern, flags)
        caller = sys._getframe(1)
        filename, line = caller.f_code.co_filename, caller.f_lineno

        def decorator(function: F) -> F:
            registered = _Registered(PatternHandler(function, compiled), filename, line)
            self._judge(registered)
            self._add_message(function, registered.handler)
            self._patterns.append(registered)
            return function

        return decorator

    @t.overload
    def on_json(self, type: type[t.Any] | types.UnionType, /) -> t.Callable[[F], F]: ...

    @t.overload
    def on_json(self, function: F, /) -> F: ...

    @t.overload
    def on_json(self, /, **filters: t.Any) -> t.Callable[[F], F]: ...

    def on_json(self, function: t.Any = None, /, **filters: t.Any) -> t.Any:
        """Hear text messages that are JSON: ``@on_json`` all, or those that fit.

        The handler is given what the JSON says. What it returns is sent, a dict, list
        or dataclass as JSON, with the ``id`` of the message that it answers.

        With a type, ``@on_json(Move)``, it is given the message as that type: a dataclass,
        a TypedDict, a ``msgspec.Struct``, a model of pydantic, or a union of these. All
        types of one endpoint are told apart by a tag. A message that does not fit is an
        :exc:`.InvalidMessage`. Such handlers go behind those with filters and patterns, and
        before those without.

        :param filters: a message fits if it is an object that has these keys with
            these values. Such handlers count as ones with a pattern.
        :raises TypeError: if the handler wants a name that nothing can fill, or the type
            cannot be read or not be told from the others.
        :raises ImportError: if there is a type, and msgspec is not installed.
        """
        if function is None:
            return lambda f: self._add_message(f, JSONHandler(f, filters))
        if filters:
            raise TypeError(f"on_json takes a type or filters, not both {function!r} and filters.")
        if _is_type(function):
            return self._on_type(function)
        if not callable(function):
            raise TypeError(
                "on_json takes a type, or filters by name, such as on_json(type='move'), "
                f"not {function!r} by position."
            )
        return self._add_message(function, JSONHandler(function, {}))

    def _on_type(self, type: t.Any) -> t.Callable[[F], F]:
        from .typed import TypedHandler
        from .typed import Types

        union = self._types = self._types or Types()

        def decorator(function: F) -> F:
            handler = TypedHandler(function, type, union)
            self._know(handler)
            handler.join()
            self._handlers.add_message_handler(handler)
            return function

        return decorator

    def route(self, path: str, *, endpoint: str | None = None) -> t.Callable[[F], F]:
        """Serve *path* with a loop: ``def raw(ws, room)`` reads and writes as it likes.

        When it returns, its reply is sent and the connection is closed with 1000.
        The hooks of this object apply, its handlers of messages do not. Besides the
        URL's variables it may name ``clients``, which is :attr:`clients`.

        :param path: the URL rule.
        :param endpoint: the rule's name; the function's unless given.
        """

        def decorator(function: F) -> F:
            handler = Handler(function, "ws")
            if not handler.takes_subject:
                raise TypeError(f"{handler.name} must take the connection: def f(ws, ...).")
            self._add_rule(_Rule(path, endpoint or function.__name__, handler))
            return function

        return decorator

    # Hooks

    def before_open(self, function: F) -> F:
        """Call *function* in the handshake, inside the Flask request.

        What it returns, or an ``abort()``, refuses the connection; None goes on. It
        may call ``ws.accept(subprotocol)``.
        """
        return self._add_hook(self._handlers.before_open, function, None)

    def on_open(self, function: F) -> F:
        """Call *function* once the connection is open; what it returns is sent."""
        return self._add_hook(self._handlers.on_open, function, None)

    def before_message(self, function: F) -> F:
        """Call *function* with each message first. What it returns, unless None,
        stands in for the handlers' replies."""
        return self._add_hook(self._handlers.before_message, function, "message")

    def after_message(self, function: F) -> F:
        """Call *function* with each reply. It returns the reply to send, or None."""
        return self._add_hook(self._handlers.after_message, function, "reply")

    def before_close(self, function: F) -> F:
        """Call *function* when our side is about to close; what it returns is sent."""
        return self._add_hook(self._handlers.before_close, function, None)

    def on_close(self, function: F) -> F:
        """Call *function* when the connection is over, exactly once.

        It may name ``code`` and ``reason``.
        """
        return self._add_hook(
            self._handlers.on_close, function, None, frozenset({"code", "reason"})
        )

    def errorhandler(self, error: type[Exception]) -> t.Callable[[F], F]:
        """Let a function answer for exceptions of a class; what it returns is sent.

        :param error: the class; the nearest one to what was raised is taken.
        """
        if not (isinstance(error, type) and issubclass(error, Exception)):
            raise TypeError(f"errorhandler takes a class of exceptions, not {error!r}.")

        def decorator(function: F) -> F:
            handler = Handler(function, "error")
            self._know(handler)
            self._handlers.errors[error] = handler
            return function

        return decorator

    # From a handler

    def spawn(self, function: t.Callable[P, t.Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call *function* beside the messages, in a greenlet or thread of its own.

        It has ``ws`` and Flask's contexts as the handler has, with a ``g`` of its own, and
        ends with the connection: a greenlet is killed where it waits; a thread ends where
        it calls ``ws.send``, ``ws.receive`` or ``ws.sleep``, which raise
        :exc:`.ConnectionClosed`. What it returns is ignored. An exception is logged and
        closes the connection with 1011.

        :raises RuntimeError: outside of a handler, or before the connection is open.
        :raises ConnectionClosed: if the connection is closed.
        :raises TypeError: if it is an async function.
        """
        spawn(function, args, kwargs)

    # From anywhere

    @property
    def clients(self) -> Clients[WebSocket]:
        """The open connections: a live view, safe to loop over while they change."""
        return Clients(self._rooms())

    def broadcast(
        self,
        data: t.Any,
        to: str | t.Iterable[str] | None = None,
        skip: WebSocket | str | t.Iterable[WebSocket | str] | None = None,
    ) -> None:
        """Send *data* to all open connections, or to those in some rooms.

        May be called from a view, a handler, a thread or a greenlet. Does not wait for
        slow clients, and a dead one disturbs nobody.

        :param data: str, bytes-like, or a Flask Response such as ``jsonify`` makes.
        :param to: a room or several; who is in more than one gets it once.
        :param skip: connections, or their ids, that do not get it.
        :raises TypeError: if *data* is nothing of that.
        """
        message: Message
        if hasattr(data, "get_data"):
            message = response_message(data, "broadcast()'s argument")
        else:
            message = as_message(data, "For JSON, use jsonify().")
        rooms = [to] if isinstance(to, str) else to
        self._rooms().broadcast(
            message, None if rooms is None else list(rooms), [_id(one) for one in _several(skip)]
        )

    def __repr__(self) -> str:
        paths = ", ".join(rule.path for rule in self._rules)
        return f"<{type(self).__name__} {self._endpoint!r} at {paths or 'no rule'}>"

    # Attaching

    def _register(self, state: BlueprintSetupState) -> None:
        """A blueprint with this endpoint is registered on an app."""
        app = t.cast(Flask, state.app)

        def add(rule: _Rule) -> None:
            state.add_url_rule(rule.path, rule.endpoint, self._view(rule), websocket=True)
            name = f"{state.name_prefix}.{state.name}.{rule.endpoint}".lstrip(".")
            self._learn_variables(app, rule, name)

        self._attach(app, add)

    def _attach(self, app: Flask, add: t.Callable[[_Rule], None]) -> None:
        state: _AppState = app.extensions.get(_EXTENSION) or _AppState(app)
        app.extensions[_EXTENSION] = state
        self._choose_regex(state.config.regex)
        for rule in self._rules:
            add(rule)
        self._attached.append(add)
        if app not in self._apps:
            self._apps.append(app)
            state.rooms[self] = Rooms()

    def _add_to_app(self, app: Flask, rule: _Rule) -> None:
        if rule.endpoint in app.view_functions:
            raise RuntimeError(
                f"The app has an endpoint {rule.endpoint!r} already. Give this one a name of "
                "its own: WebSockets(app, endpoint='...')."
            )
        app.add_url_rule(rule.path, rule.endpoint, self._view(rule), websocket=True)
        self._learn_variables(app, rule, rule.endpoint)

    def _learn_variables(self, app: Flask, rule: _Rule, endpoint: str) -> None:
        for added in app.url_map.iter_rules(endpoint):
            # Whatever the method, the view says in a sentence what is wrong with it.
            added.methods = None
            variables = frozenset(added.arguments)
            if rule.loop is not None:
                rule.loop.check(variables | {"clients"})
            self._variables.append((rule, variables))
            for handler, names in self._known:
                self._check(handler, names, rule, variables)

    def _add_rule(self, rule: _Rule) -> None:
        self._rules.append(rule)
        for add in self._attached:
            add(rule)

    def _view(self, rule: _Rule) -> t.Any:
        return Endpoint(self._handlers, _state, lambda app: _state(app).rooms[self], rule.loop)

    # Handlers

    def _add_message(self, function: F, handler: MessageHandler) -> F:
        self._know(handler, handler.groups)
        self._handlers.add_message_handler(handler)
        return function

    def _choose_regex(self, regex: str) -> None:
        """An app says what matches patterns. As they are the same for all apps, RE2 does
        it for all once one asks for it."""
        if regex == self._regex or self._regex == "re2":
            return
        if regex == "re2":
            import_re2()
            linear = [one.handler.linear() for one in self._patterns]
            for one, pattern in zip(self._patterns, linear, strict=True):
                one.handler.use(pattern)
        else:
            for one in self._patterns:
                _warn_of(one)
        self._regex = regex

    def _judge(self, one: _Registered) -> None:
        """What :meth:`_choose_regex` does, for a pattern that comes later."""
        if self._regex == "re2":
            one.handler.use(one.handler.linear())
        elif self._regex == "re":
            _warn_of(one)

    def _add_hook(
        self,
        hooks: list[Handler],
        function: F,
        subject: str | None,
        names: frozenset[str] = frozenset(),
    ) -> F:
        handler = Handler(function, subject)
        self._know(handler, names)
        hooks.append(handler)
        return function

    def _know(self, handler: Handler, names: frozenset[str] = frozenset()) -> None:
        """Check *handler* now against the rules that are known, and later against others."""
        for rule, variables in self._variables:
            self._check(handler, names, rule, variables)
        self._known.append((handler, names))

    def _check(
        self, handler: Handler, names: frozenset[str], rule: _Rule, variables: frozenset[str]
    ) -> None:
        # A loop's connections have hooks, but no handlers of messages.
        if rule.loop is None or not isinstance(handler, MessageHandler):
            handler.check(names | variables)

    # State

    def _rooms(self) -> Rooms[WebSocket]:
        """The rooms in the current app, or in the only one."""
        if has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            if app in self._apps:
                return _state(app).rooms[self]
        if len(self._apps) == 1:
            return _state(self._apps[0]).rooms[self]
        if not self._apps:
            raise RuntimeError("This WebSockets object is attached to no app. Call init_app(app).")
        raise RuntimeError(
            "This WebSockets object is attached to several apps. Say which one is meant: "
            "with app.app_context(): ..."
        )


def _is_ours(application: t.Any) -> bool:
    """Whether *application* is an app with this extension, under usual middleware."""
    for _ in range(20):
        if isinstance(application, Flask):
            return _EXTENSION in application.extensions
        if isinstance(application, WebSocketMiddleware):
            return True
        if hasattr(application, "mounts"):
            return False  # several applications, of which others may not be ours
        application = getattr(application, "app", None)
    return False


def _warn_of(one: _Registered) -> None:
    """Warn of a pattern that one message can keep :mod:`re` busy with for good."""
    handler, filename, line = one
    pump = find_pump(handler.pattern)
    if pump is not None:
        warnings.warn_explicit(
            f"{handler.name} has the pattern {handler.pattern.pattern!r}. With each {pump!r} more, "
            "a message may take re twice as long. Write it so that a repetition can be read in "
            "one way only, or set WEBSOCKETS_REGEX to 're2'.",
            UserWarning,
            filename,
            line,
        )


def _is_type(one: t.Any) -> bool:
    """Whether it is a class, a union, or what else stands for a type."""
    return (
        isinstance(one, (type, types.UnionType))
        or t.get_origin(one) is not None
        or hasattr(one, "__value__")  # type Message = Move | Say
    )


def _several(skip: t.Any) -> list[t.Any]:
    if skip is None:
        return []
    if isinstance(skip, str) or hasattr(skip, "id"):
        return [skip]
    return list(skip)


def _id(one: WebSocket | str) -> str:
    return one if isinstance(one, str) else one.id

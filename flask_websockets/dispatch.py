"""Which handlers hear a message; what they are given; what becomes of what they return."""

from __future__ import annotations

import inspect
import re
import typing as t
from dataclasses import dataclass
from dataclasses import is_dataclass
from types import GeneratorType

from flask import Flask
from flask import got_request_exception
from flask import Response

from .connection import WebSocket
from .context import SocketContext
from .exceptions import ConnectionClosed
from .protocol import CloseCode
from .rooms import Clients
from .rooms import Message

Values = t.Mapping[str, t.Any]

_NO_JSON: t.Final = object()


class Handler:
    """A function of the user, and what it wants to be given.

    The first positional parameter takes the subject (the message, the reply, the
    error or the connection) where there is one; all others are filled by name.

    :param function: the function.
    :param subject: what the first parameter takes, for error messages; None where
        there is none.
    :raises TypeError: if it is no plain function.
    """

    #: Whether dicts, lists and dataclasses that it returns become JSON.
    replies_json = True

    def __init__(self, function: t.Callable[..., t.Any], subject: str | None) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{_name(function)} is an async function. Handlers run in a greenlet or a "
                "thread, not in an event loop: write it with def."
            )
        if not callable(function):
            raise TypeError(f"A handler is a function, not {function!r}.")
        self.function = function
        self.name = _name(function)
        parameters = list(inspect.signature(function).parameters.values())
        self.subject = subject
        self.takes_subject = False
        self.first = ""
        if subject is not None and parameters and _is_positional(parameters[0]):
            self.takes_subject = True
            if parameters[0].kind is not parameters[0].VAR_POSITIONAL:
                self.first = parameters.pop(0).name
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        for parameter in named:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"{self.name} has a positional-only parameter {parameter.name!r}. "
                    "Handlers are given their values by name."
                )
        self.names = frozenset(p.name for p in named)
        self.required = frozenset(p.name for p in named if p.default is p.empty)

    def call(self, subject: t.Any, values: Values) -> t.Any:
        """Call the function with what it wants of *values*."""
        if self.takes_all:
            wanted = dict(values)
        else:
            wanted = {name: values[name] for name in self.names if name in values}
        if self.takes_subject:
            return self.function(subject, **wanted)
        return self.function(**wanted)

    def check(self, available: t.Collection[str]) -> None:
        """Refuse names that nothing can fill, or that the subject would take.

        :raises TypeError: if there is one.
        """
        if self.first in available:
            raise TypeError(
                f"{self.name} has {self.first!r} as its first parameter, which takes the "
                f"{self.subject}. Put another before it: def f({self.subject}, {self.first})."
            )
        missing = sorted(self.required.difference(available))
        if missing:
            can = ", ".join(sorted(available)) or "none here"
            raise TypeError(
                f"{self.name} wants {', '.join(map(repr, missing))}, which nothing can fill. "
                f"The names that can be filled are: {can}."
            )


class MessageHandler(Handler):
    """A handler of messages and the messages that it hears."""

    #: Names that a match can fill.
    groups: frozenset[str] = frozenset()
    #: Whether it is tried after all handlers with a pattern.
    is_catch_all = True
    #: A dict in reply to text is more often a mistake than JSON: on_json is there for it.
    replies_json = False

    def select(self, incoming: Incoming) -> tuple[t.Any, Values] | None:
        """The subject and the values for *incoming*, or None if it is not heard."""
        return incoming.message, {}


class PatternHandler(MessageHandler):
    """Hears text by a str pattern, binary by a bytes pattern, tried with ``match``."""

    is_catch_all = False

    def __init__(self, function: t.Callable[..., t.Any], pattern: re.Pattern[t.Any]) -> None:
        super().__init__(function, "message")
        self.groups = frozenset(pattern.groupindex)
        self._match = pattern.match
        self._type = type(pattern.pattern)

    def select(self, incoming: Incoming) -> tuple[t.Any, Values] | None:
        if type(incoming.message) is not self._type:
            return None
        match = self._match(incoming.message)
        return None if match is None else (incoming.message, match.groupdict())


class JSONHandler(MessageHandler):
    """Hears text that is JSON, and with filters only objects that have these items."""

    replies_json = True

    def __init__(self, function: t.Callable[..., t.Any], filters: Values) -> None:
        super().__init__(function, "message")
        self._filters = dict(filters)
        self.is_catch_all = not filters

    def select(self, incoming: Incoming) -> tuple[t.Any, Values] | None:
        data = incoming.json()
        if data is _NO_JSON:
            return None
        if self._filters:
            if not isinstance(data, dict):
                return None
            for key, value in self._filters.items():
                if key not in data or not _is_same(data[key], value):
                    return None
        return data, {}


class Incoming:
    """One message, decoded as JSON once at most."""

    def __init__(self, message: Message, loads: t.Callable[[str], t.Any]) -> None:
        self.message = message
        self._loads = loads
        self._json: t.Any = None
        self._tried = False

    def json(self) -> t.Any:
        """What the message says, or ``_NO_JSON``."""
        if not self._tried:
            self._tried = True
            try:
                self._json = (
                    self._loads(self.message) if isinstance(self.message, str) else _NO_JSON
                )
            except (ValueError, RecursionError):
                self._json = _NO_JSON
        return self._json


class Handlers:
    """All that is registered on one endpoint, in the order in which it is called."""

    def __init__(self, match_one: bool = False) -> None:
        self.match_one = match_one
        self.before_open: list[Handler] = []
        self.on_open: list[Handler] = []
        self.before_message: list[Handler] = []
        self.after_message: list[Handler] = []
        self.before_close: list[Handler] = []
        self.on_close: list[Handler] = []
        self.errors: dict[type[Exception], Handler] = {}
        self._patterns: list[MessageHandler] = []
        self._catch_alls: list[MessageHandler] = []

    def add_message_handler(self, handler: MessageHandler) -> None:
        """Put *handler* behind the others of its kind."""
        (self._catch_alls if handler.is_catch_all else self._patterns).append(handler)

    def select(self, incoming: Incoming) -> t.Iterator[tuple[MessageHandler, t.Any, Values]]:
        """The handlers that hear *incoming*, in order, each with its subject and values."""
        for handlers in (self._patterns, self._catch_alls):
            for handler in handlers:
                selected = handler.select(incoming)
                if selected is not None:
                    yield handler, *selected
                    if self.match_one:
                        return

    def error_handler(self, error: Exception) -> Handler | None:
        """The handler for the nearest class of *error*."""
        for cls in type(error).__mro__:
            if cls in self.errors:
                return self.errors[cls]
        return None


@dataclass(frozen=True)
class Session:
    """One open connection and what its handlers run with.

    :param app: the application.
    :param ws: the connection.
    :param handlers: those of its endpoint.
    :param request: the handshake's request context, to be copied.
    :param values: the variables of the URL.
    :param clients: the open connections of the endpoint.
    :param loop: the handler of a ``route``, which reads and writes by itself.
    """

    app: Flask
    ws: WebSocket
    handlers: Handlers
    request: t.Any
    values: Values
    clients: Clients[WebSocket]
    loop: Handler | None = None

    def serve(self) -> None:
        """The connection's life, from ``on_open`` until its last message is answered.

        Returns when the connection is closed or about to be; what is left then is
        the closing handshake and :meth:`closed`.
        """
        if self.handlers.on_open:
            self._turn(self._opened)
            if not self.ws.connected:
                return  # on_open closed it, failed, or took longer than the client stayed
        if self.loop is not None:
            self._turn(self._run_loop)
        else:
            self._handle_messages()
        self.ws.close(CloseCode.NORMAL_CLOSURE)

    def before_close(self) -> None:
        """Our side is about to close, still connected: the last replies."""
        if self.handlers.before_close:
            self._turn(self._closing)

    def closed(self) -> None:
        """It is over: ``on_close``, each in a context of its own."""
        values = {**self.values, "code": self.ws.close_code, "reason": self.ws.close_reason}
        for handler in self.handlers.on_close:
            self._guarded(handler.call, None, values)

    # One turn: a context, some of the user's code, and what it raises

    def _handle_messages(self) -> None:
        while True:
            try:
                message = self.ws.receive()
            except ConnectionClosed:
                return
            except RuntimeError as error:
                # A task that a handler started receives in the loop's place.
                self._log(error)
                self.ws.close(CloseCode.INTERNAL_ERROR)
                return
            assert message is not None
            self._turn(self._message, message)

    def _turn(self, function: t.Callable[..., None], *args: t.Any) -> None:
        """Run user code in a fresh context; what nobody answers for closes with 1011."""
        if not self._guarded(self._answered, function, *args):
            self.ws.close(CloseCode.INTERNAL_ERROR)

    def _guarded(self, function: t.Callable[..., object], *args: t.Any) -> bool:
        """Run user code in a fresh context and log what it raises, once.

        :return: False if it raised.
        """
        logged: Exception | None = None
        try:
            with self._context():
                try:
                    function(*args)
                except ConnectionClosed:
                    raise
                except Exception as error:
                    # Here and not below: loggers can see the request.
                    self._log(error)
                    logged = error
                    raise
        except ConnectionClosed:
            pass  # it meant to send to who has left, and ends quietly
        except Exception as error:
            if error is not logged:
                self._log(error)  # a teardown function's
            return False
        return True

    def _answered(self, function: t.Callable[..., None], *args: t.Any) -> None:
        """Call *function*; let an error handler answer for what it raises."""
        try:
            function(*args)
        except ConnectionClosed:
            raise
        except Exception as error:
            handler = self.handlers.error_handler(error)
            if handler is None:
                raise
            self._reply(handler, handler.call(error, self.values))

    def _log(self, error: Exception) -> None:
        """Log *error* with its traceback and tell who watches, as Flask does for views."""
        self.app.logger.error(
            "Exception on socket %s of %s",
            self.ws.id,
            self.request.request.path,
            exc_info=(type(error), error, error.__traceback__),
        )
        try:
            got_request_exception.send(
                self.app, _async_wrapper=self.app.ensure_sync, exception=error
            )
        except Exception:
            self.app.logger.exception("A receiver of got_request_exception failed")

    def _context(self) -> SocketContext:
        return SocketContext(self.app, self.request, self.ws)

    # What is done in a turn

    def _opened(self) -> None:
        for handler in self.handlers.on_open:
            self._reply(handler, handler.call(None, self.values))

    def _run_loop(self) -> None:
        assert self.loop is not None
        self._reply(self.loop, self.loop.call(self.ws, {"clients": self.clients, **self.values}))

    def _closing(self) -> None:
        for handler in self.handlers.before_close:
            self._reply(handler, handler.call(None, self.values))

    def _message(self, message: Message) -> None:
        for handler in self.handlers.before_message:
            reply = handler.call(message, self.values)
            if reply is not None:
                self._reply(handler, reply)
                return
        incoming = Incoming(message, self.app.json.loads)
        for chosen, subject, groups in self.handlers.select(incoming):
            values = {**self.values, **groups} if groups else self.values
            self._reply(chosen, chosen.call(subject, values))

    def _reply(self, handler: Handler, reply: t.Any) -> None:
        """Send what *handler* returned; a generator's items as they come."""
        if reply is None:
            return
        if not isinstance(reply, GeneratorType):
            self._reply_one(handler, reply)
            return
        try:
            for item in reply:
                if item is not None:
                    self._reply_one(handler, item)
        finally:
            reply.close()

    def _reply_one(self, handler: Handler, reply: t.Any) -> None:
        for after in reversed(self.handlers.after_message):
            changed = after.call(reply, self.values)
            if changed is None:
                return
            if changed is not reply:
                handler, reply = after, changed
        self.ws.send(self._as_message(handler, reply))

    def _as_message(self, handler: Handler, reply: t.Any) -> Message:
        if isinstance(reply, (str, bytes)):
            return reply
        if isinstance(reply, (bytearray, memoryview)):
            return bytes(reply)
        if isinstance(reply, Response):
            return response_message(reply, handler.name)
        if handler.replies_json and _is_json(reply):
            try:
                return self.app.json.dumps(reply)
            except TypeError as error:
                raise TypeError(f"{handler.name} returned what is no JSON: {error}") from error
        raise TypeError(
            f"{handler.name} returned {type(reply).__name__}. Return str, bytes, a Flask "
            "Response such as jsonify() makes, a generator of these, or None for no reply."
            + ("" if handler.replies_json else " A dict is a reply in on_json.")
        )


def response_message(response: Response, name: str) -> Message:
    """The body of a Flask response as a message: text if its mimetype is text or JSON.

    :param name: who returned it, for the error.
    :raises ValueError: if its status says that it is no answer.
    """
    if response.status_code >= 300:
        raise ValueError(
            f"{name} returned a response of status {response.status}. A message has no "
            "status: raise an error, or return one of status 200."
        )
    if (response.mimetype or "").startswith("text/") or response.is_json:
        return response.get_data(as_text=True)
    return response.get_data()


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )


def _is_same(data: t.Any, value: t.Any) -> bool:
    """JSON's equality: true is not 1, as it is in Python."""
    return isinstance(data, bool) is isinstance(value, bool) and bool(data == value)


def _is_json(reply: t.Any) -> bool:
    return isinstance(reply, (dict, list)) or (is_dataclass(reply) and not isinstance(reply, type))


def _name(function: t.Any) -> str:
    return f"{getattr(function, '__qualname__', function)!s}()"

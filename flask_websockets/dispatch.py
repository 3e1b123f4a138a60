"""The turns of one connection: what its handlers run in, and what becomes of what they return."""

from __future__ import annotations

import typing as t
from contextlib import ExitStack
from dataclasses import fields
from dataclasses import is_dataclass
from functools import partial
from types import GeneratorType

from flask import Flask
from flask import Response

from .connection import WebSocket
from .context import ConnectionContext
from .drivers.base import TURNS
from .errors import ErrorLog
from .exceptions import ConnectionClosed
from .exceptions import InvalidMessage
from .handlers import Handler
from .handlers import Handlers
from .handlers import Incoming
from .handlers import UNHEARD
from .handlers import Values
from .interrupts import is_interrupt
from .protocol import CloseCode
from .rooms import Clients
from .rooms import Message

T = t.TypeVar("T")


class Session:
    """One open connection and what its handlers run with.

    :param app: the application.
    :param ws: the connection.
    :param handlers: those of its endpoint.
    :param request: the handshake's request context.
    :param values: the variables of the URL.
    :param clients: the open connections of the endpoint.
    :param give_back: called when all is over: the connection leaves its place to others.
    :param loop: the handler of a ``route``, which reads and writes by itself.
    """

    def __init__(
        self,
        app: Flask,
        ws: WebSocket,
        handlers: Handlers,
        request: t.Any,
        values: Values,
        clients: Clients[WebSocket],
        give_back: t.Callable[[], object],
        loop: Handler | None = None,
    ) -> None:
        self.app = app
        self.ws = ws
        self.handlers = handlers
        self.values = values
        self._clients = clients
        self._give_back = give_back
        self._loop = loop
        self._errors = ErrorLog(app, ws.id, request.request.path)
        self._context = ConnectionContext(app, request, ws)

    # The connection's life, for the driver

    @property
    def due(self) -> float:
        """When :meth:`proceed` is to be called at the latest, by ``time.monotonic``."""
        return self.ws.due

    def start(self) -> bool:
        """Run ``on_open``, and the loop if there is one.

        :return: whether messages are to be handled; if not, what is left is :meth:`end`.
        """
        try:
            return self._begin()
        except Exception as error:
            self._fail(error)
            return False

    def proceed(self, wait: bool) -> int:
        """Read once, and handle the messages that have come, or the first of them.

        :param wait: whether to wait for something to come, or to be :attr:`due`.
        :return: OVER, IDLE or BUSY, of the drivers.
        """
        try:
            self.ws.take_in(wait)
            turns, attempt = TURNS, self._attempt_message
            while turns:
                message = self.ws.take_message()
                if message is None:
                    break
                self._turn(attempt, message)
                turns -= 1
        except Exception as error:
            # A RuntimeError: a task that a handler started receives in our place.
            self._fail(error)
        self.ws.flush()
        return self.ws.standing()

    def go_away(self, code: int) -> None:
        """The server stops: start the closing handshake."""
        self.ws.close(code)

    def abort(self) -> None:
        """The server ends the task that serves: no time for a closing handshake."""
        self.ws.abort(CloseCode.GOING_AWAY)

    def end(self) -> None:
        """End the connection in whatever state: tasks, ``on_close``, rooms, the last bytes."""
        # Each step whatever becomes of the one before.
        with ExitStack() as steps:
            steps.callback(self._errors.clear)
            steps.callback(self._give_back)
            steps.callback(self.ws.hang_up)
            steps.callback(self.ws.leave_all)
            steps.callback(self._closed)
            steps.callback(self.ws.finish)
            steps.callback(self.ws.end_tasks)

    def before_close(self) -> None:
        """Our side is about to close, still connected: the last replies."""
        if self.handlers.before_close:
            self._turn(self._attempt, self._closing)

    def _begin(self) -> bool:
        if self.handlers.on_open:
            self._turn(self._attempt, self._opened)
            if not self.ws.connected:
                return False  # on_open closed it, failed, or took longer than the client stayed
        if self._loop is None:
            return True
        self._turn(self._attempt, self._run_loop)
        self.ws.close(CloseCode.NORMAL_CLOSURE)
        return False

    def _fail(self, error: Exception) -> None:
        """What is ours failed, between two turns."""
        self._errors.log(error)
        self.ws.close(CloseCode.INTERNAL_ERROR)

    # One turn: a context, some of the user's code, and what it raises

    def _turn(self, attempt: t.Callable[[T], None], argument: T) -> None:
        """Run user code in a fresh context; what nobody answers for closes with 1011."""
        if not self._guarded(attempt, argument):
            self.ws.close(CloseCode.INTERNAL_ERROR)

    def _guarded(self, attempt: t.Callable[[T], None], argument: T) -> bool:
        """Run user code in a fresh context; what it raises is logged.

        :return: False if it raised.
        """
        try:
            self._context.run(attempt, argument)
        except ConnectionClosed:
            pass  # it meant to send to who has left, and ends quietly
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._errors.log(error)
            return False
        return True

    def _attempt_message(self, message: Message) -> None:
        incoming = Incoming(message, self.app)
        try:
            self._message(incoming)
        except ConnectionClosed:
            raise
        except BaseException as error:
            self._answer(error, incoming)

    def _attempt(self, function: t.Callable[[], None]) -> None:
        try:
            function()
        except ConnectionClosed:
            raise
        except BaseException as error:
            self._answer(error)

    def _answer(self, error: BaseException, incoming: Incoming | None = None) -> None:
        """Let an error handler answer for *error*, or log and raise it."""
        handler = self.handlers.error_handler(error)
        if handler is None and isinstance(error, InvalidMessage):
            handler = _INVALID
        try:
            if handler is None:
                raise error
            self._reply(handler, handler.call(error, self.values), incoming)
        except ConnectionClosed:
            raise
        except BaseException as failure:
            self._errors.note(failure)
            raise
        finally:
            del error  # its traceback may refer to this frame

    def _attempt_alone(self, function: t.Callable[[], object]) -> None:
        """Call *function*, for whose errors no error handler answers."""
        try:
            function()
        except ConnectionClosed:
            raise
        except BaseException as error:
            self._errors.note(error)
            raise

    # What is done in a turn

    def _opened(self) -> None:
        for handler in self.handlers.on_open:
            self._reply(handler, handler.call(None, self.values))

    def _run_loop(self) -> None:
        assert self._loop is not None
        values = {"clients": self._clients, **self.values}
        self._reply(self._loop, self._loop.call(self.ws, values))

    def _closing(self) -> None:
        for handler in self.handlers.before_close:
            self._reply(handler, handler.call(None, self.values))

    def _closed(self) -> None:
        """It is over: ``on_close``, each in a context of its own."""
        values = {**self.values, "code": self.ws.close_code, "reason": self.ws.close_reason}
        for handler in self.handlers.on_close:
            self._guarded(self._attempt_alone, partial(handler.call, None, values))

    def _message(self, incoming: Incoming) -> None:
        message = incoming.message
        for handler in self.handlers.before_message:
            reply = handler.call(message, self.values)
            if reply is not None:
                self._reply(handler, reply, incoming)
                return
        heard = False
        for listener in self.handlers.candidates(message):
            if listener.is_catch_all and not heard and incoming.reading is not None:
                incoming.reading.raise_misfit()
            reply = listener.hear(incoming, self.values)
            if reply is not UNHEARD:
                heard = True
                if reply is not None:
                    self._reply(listener, reply, incoming)
                if self.handlers.match_one:
                    return
        if not heard and incoming.reading is not None:
            incoming.reading.raise_fault()

    def _reply(self, handler: Handler, reply: t.Any, incoming: Incoming | None = None) -> None:
        """Send what *handler* returned; a generator's items as they come.

        :param incoming: the message that it answers, if it does.
        """
        if reply is None:
            return
        if type(reply) is str or not isinstance(reply, GeneratorType):
            self._reply_one(handler, reply, incoming)
            return
        try:
            for item in reply:
                if item is not None:
                    self._reply_one(handler, item, incoming)
                    self.ws.flush()
                if not self.ws.connected:
                    break  # nobody is there for the rest
        finally:
            reply.close()

    def _reply_one(self, handler: Handler, reply: t.Any, incoming: Incoming | None) -> None:
        for after in reversed(self.handlers.after_message):
            changed = after.call(reply, self.values)
            if changed is None:
                return
            if changed is not reply:
                handler, reply = after, changed
        self.ws.reply(self._as_message(handler, reply, incoming))

    def _as_message(self, handler: Handler, reply: t.Any, incoming: Incoming | None) -> Message:
        if isinstance(reply, (str, bytes)):
            return reply
        if isinstance(reply, (bytearray, memoryview)):
            return bytes(reply)
        if isinstance(reply, Response):
            return response_message(reply, handler.name)
        if handler.replies_json and _is_json(reply):
            try:
                return self._as_json(handler, reply, incoming)
            except TypeError as error:
                raise TypeError(f"{handler.name} returned what is no JSON: {error}") from error
        raise TypeError(
            f"{handler.name} returned {type(reply).__name__}. Return str, bytes, a Flask "
            "Response such as jsonify() makes, a generator of these, or None for no reply."
            + ("" if handler.replies_json else " A dict is a reply in on_json.")
        )

    def _as_json(self, handler: Handler, reply: t.Any, incoming: Incoming | None) -> str:
        """*reply* as JSON text, with the ``id`` of what it answers unless it has its own."""
        if handler.is_typed or (type(reply) is not dict and _is_typed(_first(reply))):
            from .typed import encode

            return encode(reply, None if incoming is None else incoming.message)
        id = None if incoming is None else incoming.id()
        return self.app.json.dumps(reply if id is None else _with_id(reply, id))


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


def _is_json(reply: t.Any) -> bool:
    return isinstance(reply, (dict, list)) or (
        not isinstance(reply, type) and (is_dataclass(reply) or _is_typed(reply))
    )


def _is_typed(reply: t.Any) -> bool:
    """Whether it is a Struct of msgspec, or a model or dataclass of pydantic."""
    cls = type(reply)
    return hasattr(cls, "__struct_fields__") or hasattr(cls, "__pydantic_serializer__")


def _first(reply: t.Any) -> t.Any:
    """What stands for all of a list."""
    return reply[0] if isinstance(reply, list) and reply else reply


def _with_id(reply: t.Any, id: t.Any) -> t.Any:
    """*reply* with *id*, if it is an object without one."""
    if is_dataclass(reply):
        reply = {field.name: getattr(reply, field.name) for field in fields(reply)}
    if isinstance(reply, dict) and "id" not in reply:
        return {**reply, "id": id}
    return reply


def _describe(error: InvalidMessage) -> dict[str, t.Any]:
    return {"error": {"path": error.path, "description": error.description}}


#: Answers for an invalid message where no error handler does.
_INVALID: t.Final = Handler(_describe, "error")

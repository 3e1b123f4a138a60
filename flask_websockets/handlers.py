"""Which handlers hear a message, and what they are given."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import typing as t

from flask import Flask

from .linear import LinearPattern
from .rooms import Message

Values = t.Mapping[str, t.Any]

_NO_JSON: t.Final = object()
#: In place of the reply of a handler that was not called.
UNHEARD: t.Final = object()
#: So few handlers are tried one after the other.
_FEW: t.Final = 4


class Handler:
    """A function of the user, and what it wants to be given.

    The first positional parameter takes the subject (the message, the reply, the
    error or the connection) where there is one; all others are filled by name.

    :param function: the function.
    :param subject: what the first parameter takes, for error messages; None where
        there is none.
    :raises TypeError: if it is no plain function.
    """

    def __init__(self, function: t.Callable[..., t.Any], subject: str | None) -> None:
        refuse_async(function)
        if not callable(function):
            raise TypeError(f"A handler is a function, not {function!r}.")
        self.function = function
        self.name = _name(function)
        #: Whether dicts, lists and dataclasses that it returns become JSON.
        self.replies_json = True
        #: Whether these are encoded as typed messages are.
        self.is_typed = False
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
        #: What follows the subject, if all of it can be given by position: that is faster.
        self.order: tuple[str, ...] | None = None
        if not self.takes_all and all(_is_plain(parameter) for parameter in named):
            self.order = tuple(p.name for p in named)
        self.names = frozenset(p.name for p in named)
        self.required = frozenset(p.name for p in named if p.default is p.empty)

    def call(self, subject: t.Any, values: Values) -> t.Any:
        """Call the function with what it wants of *values*."""
        if self.order is not None:
            return self.call_in_order(subject, [values[name] for name in self.order])
        if self.takes_all:
            wanted = dict(values)
        else:
            wanted = {name: values[name] for name in self.names if name in values}
        if self.takes_subject:
            return self.function(subject, **wanted)
        return self.function(**wanted)

    def call_in_order(self, subject: t.Any, wanted: list[t.Any]) -> t.Any:
        """Call the function with the values of :attr:`order`."""
        if self.takes_subject:
            return self.function(subject, *wanted) if wanted else self.function(subject)
        return self.function(*wanted)

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
    """A handler of messages and the messages that it hears: here, all."""

    def __init__(self, function: t.Callable[..., t.Any]) -> None:
        super().__init__(function, "message")
        #: Names that a match can fill.
        self.groups: frozenset[str] = frozenset()
        #: Whether it is tried after all handlers with a pattern.
        self.is_catch_all = True
        #: What each message that it hears begins with; text or binary, or None for both.
        self.prefix: str | bytes | None = None
        # A dict in reply to text is more often a mistake than JSON: on_json is there for it.
        self.replies_json = False

    def hear(self, incoming: Incoming, values: Values) -> t.Any:
        """Call the function, if it hears *incoming*.

        :param values: the variables of the URL.
        :return: its reply, or ``UNHEARD``.
        """
        return self.call(incoming.message, values)

    def describe(self) -> str:
        """The decorator that registered it, as one would write it; for lists."""
        return "on_message"


class PatternHandler(MessageHandler):
    """Hears text by a str pattern, binary by a bytes pattern, tried with ``match``.

    :mod:`re` matches it, unless :meth:`use` says otherwise.
    """

    def __init__(self, function: t.Callable[..., t.Any], pattern: re.Pattern[t.Any]) -> None:
        super().__init__(function)
        self.is_catch_all = False
        self.groups = frozenset(pattern.groupindex)
        self.prefix = literal_prefix(pattern)
        self.pattern = pattern
        self._match: t.Callable[[t.Any], t.Any] = pattern.match
        self._type = str if isinstance(pattern.pattern, str) else bytes
        self._wanted = tuple(self.groups if self.takes_all else self.groups & self.names)
        #: Those of :attr:`order`, each with what a match has it by; None for a variable of
        #: the URL. A group is found sooner by its number.
        self._sources: list[tuple[str, t.Any]] = [
            (name, pattern.groupindex.get(name)) for name in self.order or ()
        ]

    def linear(self) -> LinearPattern:
        """The same pattern for RE2.

        :raises ValueError: if RE2 cannot express it.
        """
        try:
            return LinearPattern(self.pattern, self._wanted)
        except ValueError as error:
            raise ValueError(
                f"{self.name} has the pattern {self.pattern.pattern!r}, and WEBSOCKETS_REGEX is "
                f"'re2'. {error}"
            ) from None

    def use(self, linear: LinearPattern) -> None:
        """Let RE2 match from now on."""
        self._match = linear.match
        self._sources = [(name, key and name) for name, key in self._sources]

    def hear(self, incoming: Incoming, values: Values) -> t.Any:
        if type(incoming.message) is not self._type:
            return UNHEARD
        match = self._match(incoming.message)
        if match is None:
            return UNHEARD
        if not self._wanted:
            return self.call(incoming.message, values)
        if self.order is not None:
            wanted = [values[name] if key is None else match[key] for name, key in self._sources]
            return self.call_in_order(incoming.message, wanted)
        given = {**values}
        for name in self._wanted:
            given[name] = match[name]
        return self.call(incoming.message, given)

    def describe(self) -> str:
        source = repr(self.pattern.pattern)
        if "\\\\" in source:
            # As it was most likely written, unless a raw literal cannot say it.
            raw = "r" + source.replace("\\\\", "\\")
            source = raw if _means(raw, self.pattern.pattern) else source
        flags = re.RegexFlag(self.pattern.flags & ~re.UNICODE)
        return f"on_message({source}, {flags!r})" if flags else f"on_message({source})"


class JSONHandler(MessageHandler):
    """Hears text that is JSON, and with filters only objects that have these items."""

    def __init__(self, function: t.Callable[..., t.Any], filters: Values) -> None:
        super().__init__(function)
        self.replies_json = True
        self._filters = dict(filters)
        self.is_catch_all = not filters
        self.prefix = ""

    def describe(self) -> str:
        filters = ", ".join(f"{key}={value!r}" for key, value in self._filters.items())
        return f"on_json({filters})" if filters else "on_json"

    def hear(self, incoming: Incoming, values: Values) -> t.Any:
        data = incoming.json()
        if data is _NO_JSON:
            return UNHEARD
        if self._filters:
            if not isinstance(data, dict):
                return UNHEARD
            for key, value in self._filters.items():
                if key not in data or not _is_same(data[key], value):
                    return UNHEARD
        return self.call(data, values)


class Incoming:
    """One message, decoded as JSON once at most."""

    def __init__(self, message: Message, app: Flask) -> None:
        self.message = message
        self._app = app
        self._json: t.Any = None
        self._tried = False
        #: What the endpoint's types make of it, once one of them was asked; see ``typed``.
        self.reading: t.Any = None

    def json(self) -> t.Any:
        """What the message says, or ``_NO_JSON``."""
        if not self._tried:
            self._tried = True
            self._json = _NO_JSON
            if isinstance(self.message, str):
                try:
                    self._json = self._app.json.loads(self.message)
                except (ValueError, RecursionError):
                    pass
        return self._json

    def id(self) -> t.Any:
        """The ``id`` of a message that is a JSON object; None if it has none."""
        if not isinstance(self.message, str) or '"id"' not in self.message:
            return None  # of most messages this is all that it costs
        data = self.json()
        return data.get("id") if isinstance(data, dict) else None


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
        self._typed: list[MessageHandler] = []
        self._catch_alls: list[MessageHandler] = []
        # Made when the first message comes: to make them for each handler that is
        # registered takes seconds for some thousands.
        self._texts: Index | None = None
        self._binaries: Index | None = None

    def add_message_handler(self, handler: MessageHandler) -> None:
        """Put *handler* behind the others of its kind."""
        if handler.is_catch_all:
            self._catch_alls.append(handler)
        else:
            (self._typed if handler.is_typed else self._patterns).append(handler)
        self._texts = self._binaries = None

    @property
    def messages(self) -> list[MessageHandler]:
        """The handlers of messages, in the order in which they are tried."""
        return self._patterns + self._typed + self._catch_alls

    def candidates(self, message: Message) -> t.Sequence[MessageHandler]:
        """Those that may hear *message*, in order: all others certainly do not."""
        if isinstance(message, str):
            index = self._texts
            if index is None:
                index = self._texts = self._index(bytes)
        else:
            index = self._binaries
            if index is None:
                index = self._binaries = self._index(str)
        return index.find(message)

    def _index(self, unheard: type) -> Index:
        """All whose beginnings are not of the type *unheard*."""
        return Index([one for one in self.messages if not isinstance(one.prefix, unheard)])

    def error_handler(self, error: BaseException) -> Handler | None:
        """The handler for the nearest class of *error*."""
        for cls in type(error).__mro__:
            if cls in self.errors:
                return self.errors[cls]
        return None


class Index:
    """Handlers by the literal beginnings of their patterns.

    With a thousand of them it is not tried a thousand times whether each fits.

    :param handlers: in the order in which they are tried.
    """

    def __init__(self, handlers: t.Sequence[MessageHandler]) -> None:
        self._always = list(handlers)
        #: Of each length of a beginning: the places of its handlers.
        self._places: list[tuple[int, dict[str | bytes, list[int]]]] = []
        if len(handlers) > _FEW:
            lengths: dict[int, dict[str | bytes, list[int]]] = {}
            for place, handler in enumerate(handlers):
                prefix = handler.prefix or ""
                lengths.setdefault(len(prefix), {}).setdefault(prefix, []).append(place)
            self._general = [place for places in lengths.pop(0, {}).values() for place in places]
            self._places = sorted(lengths.items())

    def find(self, message: Message) -> t.Sequence[MessageHandler]:
        """The handlers whose beginnings are those of *message*, in order."""
        if not self._places:
            return self._always
        found = self._general
        for length, places in self._places:
            here = places.get(message[:length])
            if here is not None:
                found = found + here
        if len(found) > 1:
            found = sorted(found)
        return [self._always[place] for place in found]


def refuse_async(function: t.Any) -> None:
    """Refuse what gives a coroutine or an asynchronous generator when it is called.

    :raises TypeError: if *function* is such.
    """
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not inspect.isroutine(inner):
        inner = type(inner).__call__ if callable(inner) else None
    inner = getattr(inner, "__func__", inner)  # of a method
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise TypeError(
            f"{_name(function)} is an async function. Handlers run in a greenlet or a "
            "thread, not in an event loop: write it with def."
        )


def literal_prefix(pattern: re.Pattern[t.Any]) -> str | bytes:
    """What every string that *pattern* matches begins with, as far as it is plain to see."""
    source = pattern.pattern
    text = source.decode("latin-1") if isinstance(source, bytes) else source
    prefix = "" if pattern.flags & (re.IGNORECASE | re.VERBOSE) else _plain_beginning(text)
    return prefix.encode("latin-1") if isinstance(source, bytes) else prefix


def _plain_beginning(pattern: str) -> str:
    if _has_alternatives(pattern):
        return ""
    position = 1 if pattern.startswith("^") else 0
    prefix = ""
    while position < len(pattern):
        char = pattern[position]
        if char == "\\" and not pattern[position + 1].isalnum():
            position += 1
            char = pattern[position]
        elif char in "*?{":
            return prefix[:-1]  # the last one may be there no time
        elif char in "\\.^$+[]|()":
            break
        prefix += char
        position += 1
    return prefix


_TOKENS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\(\?#|\(\?[a-zA-Z]*x|.", re.DOTALL)


def _has_alternatives(pattern: str) -> bool:
    """Whether there is a ``|`` outside of all groups; True where that is not plain to see."""
    depth = 0
    for token in _TOKENS.findall(pattern):
        # In a comment, and where a group has comments, brackets mean nothing.
        if token[:2] == "(?" or (token == "|" and depth == 0):
            return True
        depth += (token[0] == "(") - (token == ")")
    return False


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )


def _is_plain(parameter: inspect.Parameter) -> bool:
    return (
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    )


def _means(literal: str, value: str | bytes) -> bool:
    """Whether *literal* is Python for *value*."""
    try:
        return bool(ast.literal_eval(literal) == value)
    except (SyntaxError, ValueError):
        return False


def _is_same(data: t.Any, value: t.Any) -> bool:
    """JSON's equality: true is not 1, as it is in Python."""
    return isinstance(data, bool) is isinstance(value, bool) and bool(data == value)


def _name(function: t.Any) -> str:
    return f"{getattr(function, '__qualname__', function)!s}()"

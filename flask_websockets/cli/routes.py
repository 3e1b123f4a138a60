"""``flask websockets routes``: what is registered, and in which order it is tried."""

from __future__ import annotations

import inspect
import json
import os
import typing as t

import click
from flask import current_app
from flask import Flask
from flask.cli import with_appcontext

from ..handlers import Handler
from ..handlers import Handlers
from .show import table
from .target import endpoints


class Entry(t.NamedTuple):
    """A function that is registered.

    :param registered: the decorator, as one would write it.
    :param place: where it comes among the handlers of messages; 0 if it is none.
    """

    registered: str
    function: str
    file: str | None
    line: int | None
    place: int


@click.command(short_help="Show the endpoints and their handlers.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")
@with_appcontext
def routes(as_json: bool) -> None:
    """Show each endpoint with its rule, its hooks, and its handlers of messages in the
    order in which they are tried, and where they are defined."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    found = list(_routes(app))
    if as_json:
        click.echo(json.dumps([_as_json(*one) for one in found], indent=2))
    elif not found:
        click.echo("No sockets were registered.")
    else:
        rows = [row for one in found for row in _rows(*one)]
        click.echo(table(["Endpoint", "Rule", "Registered by", "Function", "Defined at"], rows))


def _routes(app: Flask) -> t.Iterator[tuple[t.Any, Handlers, list[Entry]]]:
    """Each rule with what its connections get."""
    for rule, endpoint in endpoints(app):
        yield rule, endpoint.handlers, list(_entries(endpoint.handlers, endpoint.loop))


def _entries(handlers: Handlers, loop: Handler | None) -> t.Iterator[Entry]:
    """In the order of a connection's life."""
    yield from _hooks("before_open", handlers.before_open)
    yield from _hooks("on_open", handlers.on_open)
    if loop is not None:
        yield _entry("route", loop)
    else:
        yield from _hooks("before_message", handlers.before_message)
        for place, listener in enumerate(handlers.messages, 1):
            yield _entry(listener.describe(), listener, place)
    yield from _hooks("after_message", reversed(handlers.after_message))
    for error, handler in handlers.errors.items():
        yield _entry(f"errorhandler({error.__qualname__})", handler)
    yield from _hooks("before_close", handlers.before_close)
    yield from _hooks("on_close", handlers.on_close)


def _hooks(name: str, hooks: t.Iterable[Handler]) -> t.Iterator[Entry]:
    for hook in hooks:
        yield _entry(name, hook)


def _entry(registered: str, handler: Handler, place: int = 0) -> Entry:
    file, line = _defined_at(handler.function)
    return Entry(registered, handler.name.removesuffix("()"), file, line, place)


def _defined_at(function: t.Any) -> tuple[str | None, int | None]:
    """The file and line of a function, below what is wrapped around it."""
    function = inspect.unwrap(function)
    while hasattr(function, "func"):
        function = function.func  # a partial
    code = getattr(function, "__code__", None)
    if code is None:  # an object that can be called
        code = getattr(type(function).__call__, "__code__", None)
    return (None, None) if code is None else (code.co_filename, code.co_firstlineno)


def _rows(rule: t.Any, handlers: Handlers, entries: list[Entry]) -> t.Iterator[list[str]]:
    head = [rule.endpoint, _domain(rule) + rule.rule]
    for entry in entries:
        number = f"{entry.place}. " if entry.place else ""
        yield [*head, number + entry.registered, entry.function, _location(entry)]
        head = ["", ""]
    if not entries:
        yield [*head, "", "", ""]
    elif handlers.match_one:
        yield ["", "", "(match_one: the first that hears a message)", "", ""]


def _domain(rule: t.Any) -> str:
    return (rule.host or rule.subdomain or "") and f"{rule.host or rule.subdomain}|"


def _location(entry: Entry) -> str:
    if entry.file is None:
        return "?"
    relative = os.path.relpath(entry.file)
    return f"{entry.file if relative.startswith('..') else relative}:{entry.line}"


def _as_json(rule: t.Any, handlers: Handlers, entries: list[Entry]) -> dict[str, t.Any]:
    return {
        "endpoint": rule.endpoint,
        "rule": rule.rule,
        "host": rule.host or None,
        "subdomain": rule.subdomain or None,
        "match_one": handlers.match_one,
        "handlers": [
            {
                "registered": entry.registered,
                "function": entry.function,
                "file": entry.file,
                "line": entry.line,
                "place": entry.place or None,
            }
            for entry in entries
        ],
    }

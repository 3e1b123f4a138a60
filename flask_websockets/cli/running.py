"""``flask websockets clients``, ``broadcast`` and ``close``: of the servers that run."""

from __future__ import annotations

import json
import time
import typing as t

import click
from flask import current_app
from flask import Flask
from flask.cli import with_appcontext

from ..control import Answer
from ..control import ask
from ..control import is_supported
from ..control import MAX_REQUEST
from ..protocol.close import encode_close
from .show import milliseconds
from .show import table
from .target import endpoints


@click.command(short_help="Show who is connected.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")
@with_appcontext
def clients(as_json: bool) -> None:
    """Show the open connections of all processes that serve the app here."""
    answers, missing = _ask({"command": "clients"})
    found = [
        {"process": process, **client}
        for process, answer in answers
        for client in answer["clients"]
    ]
    found.sort(key=lambda client: client["since"] or 0)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(table(_HEAD, [_row(client) for client in found]))
    total = sum(answer["total"] for _, answer in answers)
    if total > len(found):
        click.echo(f"{total - len(found):,} more are not listed.", err=True)
    _exit(missing)


_HEAD = ["ID", "Endpoint", "Path", "Address", "Rooms", "Since", "Latency", "Process"]


def _row(client: dict[str, t.Any]) -> list[str]:
    since, latency = client["since"], client["latency"]
    return [
        client["id"],
        client["endpoint"] or "-",
        client["path"] or "-",
        client["address"] or "-",
        ", ".join(client["rooms"]) or "-",
        "-" if since is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)),
        "-" if latency is None else milliseconds(latency),
        str(client["process"]),
    ]


@click.command(short_help="Send a text to all who are connected, or to rooms.")
@click.argument("text")
@click.option("--to", multiple=True, metavar="ROOM", help="A room; as often as wanted.")
@click.option("--endpoint", help="Only to connections of this endpoint.")
@with_appcontext
def broadcast(text: str, to: tuple[str, ...], endpoint: str | None) -> None:
    """Send TEXT to all connections of the app, in all processes that serve it here."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    known = sorted({rule.endpoint for rule, _ in endpoints(app)})
    if endpoint is not None and endpoint not in known:
        raise click.UsageError(
            f"The app has no socket endpoint {endpoint!r}. There are: {', '.join(known)}"
        )
    answers, missing = _ask(
        {"command": "broadcast", "text": text, "to": list(to) or None, "endpoint": endpoint}
    )
    sent = sum(answer["sent"] for _, answer in answers)
    click.echo(f"Sent to {_count(sent, 'connection')} in {_count(len(answers), 'process')}.")
    _exit(missing)


@click.command(short_help="Close a connection.")
@click.argument("id")
@click.option("--code", default=1000, show_default=True, help="The close code.")
@click.option("--reason", default="", help="The close reason.")
@with_appcontext
def close(id: str, code: int, reason: str) -> None:
    """Close the connection that has this ID: see flask websockets clients."""
    try:
        encode_close(code, reason)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    answers, _ = _ask({"command": "close", "id": id, "code": code, "reason": reason})
    if not any(answer["closed"] for _, answer in answers):
        raise click.ClickException(f"No connection has the ID {id!r}.")
    click.echo(f"Closed {id} with {code}.")


def _ask(request: dict[str, t.Any]) -> tuple[list[tuple[int, Answer]], int]:
    """The answers of all processes, and how many gave none, which is told here.

    :raises click.ClickException: if there is no process that could be asked.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    if not is_supported():
        raise click.ClickException(
            "This system has no Unix sockets, by which a command reaches a running server."
        )
    if len(json.dumps(request)) >= MAX_REQUEST:
        raise click.ClickException(f"That is too long: {MAX_REQUEST:,} bytes are the most.")
    answers = ask(app, request)
    if not answers:
        raise click.ClickException(
            "No server of this app was found. One that runs on this machine as the same user "
            "is found from its first connection on, unless WEBSOCKETS_CONTROL is False."
        )
    good = [(process, answer) for process, answer in answers if "error" not in answer]
    for process, answer in answers:
        if "error" in answer:
            click.echo(f"Error: Process {process} does not answer: {answer['error']}.", err=True)
    return good, len(answers) - len(good)


def _exit(missing: int) -> None:
    """A script must be able to see that something was left out."""
    if missing:
        raise click.exceptions.Exit(1)


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"

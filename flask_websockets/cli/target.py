"""Which socket a command means, and what it says of itself in the handshake."""

from __future__ import annotations

import functools
import inspect
import json
import typing as t
from urllib.parse import urlencode

import click
from flask import current_app
from flask import Flask
from werkzeug.routing import BuildError
from werkzeug.routing import Rule

from ..handshake import Endpoint

F = t.TypeVar("F", bound=t.Callable[..., t.Any])

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

#: Where a server that listens everywhere is reached from here.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def endpoints(app: Flask) -> t.Iterator[tuple[Rule, Endpoint]]:
    """The rules of sockets, with their views."""
    for rule in app.url_map.iter_rules():
        view = inspect.unwrap(app.view_functions.get(rule.endpoint))  # type: ignore[arg-type]
        if rule.websocket and isinstance(view, Endpoint):
            yield rule, view


_PARAMETERS = (
    click.argument("target", required=False),
    click.argument("values", nargs=-1, metavar="[NAME=VALUE]..."),
    click.option(
        "--host", "-h", default="127.0.0.1", show_default=True, envvar="FLASK_RUN_HOST",
        help="Where the server is, if TARGET is no URL.",
    ),
    click.option(
        "--port", "-p", default=5000, show_default=True, envvar="FLASK_RUN_PORT",
        help="Its port, if TARGET is no URL.",
    ),
    click.option(
        "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'",
        help="A field of the handshake; as often as wanted.",
    ),
    click.option(
        "--subprotocol", "subprotocols", multiple=True, metavar="NAME",
        help="A subprotocol to offer; the one wanted most first.",
    ),
    click.option(
        "--login-cookie", metavar="COOKIE",
        help="NAME=VALUE as a browser has it, or a JSON object, which is signed as a "
        "session of the app.",
    ),
)  # fmt: skip


def takes_target(command: F) -> F:
    """Give *command* the arguments that say where to connect to. It gets them as
    ``place``: the keyword arguments of :class:`.Client`."""

    @functools.wraps(command)
    def wrapped(
        target: str | None,
        values: tuple[str, ...],
        host: str,
        port: int,
        headers: tuple[str, ...],
        subprotocols: tuple[str, ...],
        login_cookie: str | None,
        **options: t.Any,
    ) -> t.Any:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        host = _EVERYWHERE.get(host, host)
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        place: dict[str, t.Any] = {
            "url": resolve(app, target, _pairs(values), netloc),
            "headers": [_field(header) for header in headers],
            "subprotocols": list(subprotocols),
        }
        if login_cookie is not None:
            place["headers"].append(("Cookie", _cookie(app, login_cookie)))
        return command(place=place, **options)

    for parameter in reversed(_PARAMETERS):
        wrapped = parameter(wrapped)
    return t.cast(F, wrapped)


def resolve(app: Flask, target: str | None, values: dict[str, str], netloc: str) -> str:
    """The URL of *target*.

    :param target: a URL, a rule, a path or an endpoint; None for the only one there is.
    :param values: the variables of its rule; others become the URL's query.
    :param netloc: the server's host and port.
    """
    if target is not None and "://" in target:
        scheme, _, rest = target.partition("://")
        if scheme not in _SCHEMES:
            raise click.UsageError(f"A socket's URL begins with ws:// or wss://, not {scheme}://.")
        if values:
            raise click.UsageError("NAME=VALUE is for endpoints and rules: write the URL in full.")
        return f"{_SCHEMES[scheme]}://{rest}"
    rules: dict[str, list[Rule]] = {}
    for rule, _ in endpoints(app):
        rules.setdefault(rule.endpoint, []).append(rule)
    if target is None:
        target = _only(rules)
    if target.startswith("/"):
        named = [rule.endpoint for one in rules.values() for rule in one if rule.rule == target]
        if not named:
            return f"ws://{netloc}{target}" + (f"?{urlencode(values)}" if values else "")
        target = named[0]
    if target not in rules:
        raise click.UsageError(f"The app has no socket endpoint {target!r}. {_known(rules)}")
    return _build(app, rules[target], target, values, netloc)


def _build(
    app: Flask, rules: list[Rule], endpoint: str, values: dict[str, str], netloc: str
) -> str:
    adapter = app.url_map.bind("localhost", script_name="/", url_scheme="ws")
    try:
        url = adapter.build(endpoint, values, force_external=True)
    except BuildError:
        wanted = sorted(set(rules[0].arguments).difference(values, rules[0].defaults or {}))
        raise click.UsageError(
            f"The rule of {endpoint!r} is {rules[0].rule}: say its variables too, "
            + " ".join(f"{name}=..." for name in wanted)
        ) from None
    except ValueError as error:
        raise click.UsageError(f"That fits no rule of {endpoint!r}: {error}.") from None
    return f"ws://{netloc}/{url.split('/', 3)[3]}"


def _only(rules: dict[str, list[Rule]]) -> str:
    if len(rules) == 1:
        return next(iter(rules))
    if "websocket" in rules:
        return "websocket"
    raise click.UsageError(f"Say which socket is meant. {_known(rules)}")


def _known(rules: dict[str, list[Rule]]) -> str:
    if not rules:
        return "It has none at all."
    return "There are: " + ", ".join(
        f"{endpoint} ({', '.join(rule.rule for rule in one)})"
        for endpoint, one in sorted(rules.items())
    )


def _pairs(values: t.Iterable[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise click.UsageError(f"A variable of the rule is NAME=VALUE, not {value!r}.")
        pairs[name] = text
    return pairs


def _field(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not name.strip() or any(ord(char) < 32 for char in header):
        raise click.UsageError(f"A field is 'NAME: VALUE', not {header!r}.")
    return name.strip(), value.strip()


def _cookie(app: Flask, value: str) -> str:
    """A Cookie field's value."""
    if not value.startswith("{"):
        if "=" not in value:
            raise click.UsageError(
                f"--login-cookie is NAME=VALUE or a JSON object, not {value!r}. "
                f"The session's name is {app.config['SESSION_COOKIE_NAME']!r}."
            )
        return value
    try:
        session = json.loads(value)
    except ValueError as error:
        raise click.UsageError(f"The JSON of --login-cookie is wrong: {error}.") from None
    sign = getattr(app.session_interface, "get_signing_serializer", lambda app: None)(app)
    if sign is None:
        raise click.UsageError(
            "No session can be signed: the app has no SECRET_KEY, or keeps its sessions "
            "somewhere else than in the cookie."
        )
    return f"{app.config['SESSION_COOKIE_NAME']}={sign.dumps(session)}"

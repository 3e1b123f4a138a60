"""The opening handshake: any fields, through the whole of a Flask app, and by themselves.

An input is text. Its first line is the path with the query; each other line is a field that
is set, added to if it is set already, or taken away where there is no colon, in a handshake
that is right otherwise. ``method`` and ``version`` are of the request's line.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
import typing as t
from io import BytesIO
from urllib.parse import unquote_to_bytes

from flask import abort
from flask import Flask
from flask import request
from twins import slow_extensions
from twins import slow_is_key
from twins import slow_tokens

from flask_websockets import WebSockets
from flask_websockets.protocol.deflate import negotiate
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.handshake import is_valid_key
from flask_websockets.protocol.handshake import parse_extensions
from flask_websockets.protocol.handshake import split_tokens

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
RIGHT = {
    "method": "GET",
    "version": "HTTP/1.1",
    "host": "localhost",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": KEY,
    "sec-websocket-version": "13",
}
SUBPROTOCOLS = ["v2", "chat"]
#: What libFuzzer may put in as it is.
WORDS = (
    *(f"\n{name}:" for name in (*RIGHT, "sec-websocket-protocol", "origin", "cookie")),
    *("\nsec-websocket-extensions:permessage-deflate;", "client_max_window_bits"),
    *("client_no_context_takeover", "server_no_context_takeover", "server_max_window_bits="),
    *("chat/", "loop/", "websocket", "Upgrade", "HTTP/1.1", KEY),
)
OPTIONS = Options()
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check(data: bytes) -> None:
    """All of it."""
    path, *lines = data.decode("latin-1").split("\n")
    fields = read_fields(lines)
    for value in fields.values():
        check_field(value)
    status, headers, sent = shake(path, fields)
    assert status < 500, status
    for name, value in headers:
        assert not CONTROLS.search(name + value), (name, value)
    if status == 101:
        check_accepted(fields, sent)
    else:
        assert sent == b"", sent


def read_fields(lines: list[str]) -> dict[str, str]:
    """The fields of a request, by their names in lower case."""
    fields, added = dict(RIGHT), set()
    for line in lines[:40]:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        if not re.fullmatch("[a-z0-9-]+", name):
            continue
        if not colon:
            fields.pop(name, None)
            added.discard(name)
        elif name in added:
            fields[name] = f"{fields[name]},{value}"  # as servers join what is repeated
        else:
            fields[name] = value
            added.add(name)
    return {"method": "GET", "version": "HTTP/1.1", **fields}


# Fields by themselves


def check_field(value: str) -> None:
    """A field is read as its slow twin reads it, and as nothing else."""
    assert outcome(split_tokens, value) == outcome(slow_tokens, value)
    extensions = outcome(slow_extensions, value)
    assert outcome(parse_extensions, value) == extensions
    assert is_valid_key(value) == slow_is_key(value)
    if extensions is not None:
        check_negotiation(extensions)


def outcome(read: t.Callable[[str], list[t.Any]], value: str) -> list[t.Any] | None:
    try:
        return read(value)
    except ValueError:
        return None


def check_negotiation(offers: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    """An answer is one that an offer allows (RFC 7692, section 7.1)."""
    agreed = negotiate(offers, OPTIONS)
    if agreed is None:
        return
    agreement, header = agreed
    ((name, answer),) = slow_extensions(header)
    assert name == "permessage-deflate"
    values = dict(answer)
    assert len(values) == len(answer)
    assert agreement.server_max_window_bits == int(values.get("server_max_window_bits") or 15)
    assert agreement.client_max_window_bits == int(values.get("client_max_window_bits") or 15)
    assert agreement.server_no_context_takeover == ("server_no_context_takeover" in values)
    assert agreement.client_no_context_takeover == ("client_no_context_takeover" in values)
    allowed = [dict(parameters) for name, parameters in offers if name == "permessage-deflate"]
    assert any(is_answer(values, offer) for offer in allowed), (offers, header)


def is_answer(answer: dict[str, str | None], offer: dict[str, str | None]) -> bool:
    for name in ("server_max_window_bits", "client_max_window_bits"):
        if name in offer and int(answer.get(name) or 15) > int(offer[name] or 15):
            return False
    if "client_max_window_bits" in answer and "client_max_window_bits" not in offer:
        return False
    return "server_no_context_takeover" in answer or "server_no_context_takeover" not in offer


# Through the app


class Refuse(logging.Handler):
    """Nothing that a client sends is worth a line in the app's log."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


def make_app() -> Flask:
    app = Flask("fuzzed")
    app.secret_key = "not a secret"
    # What is raised comes out of the app, and is not made a 500.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.config["WEBSOCKETS_SUBPROTOCOLS"] = SUBPROTOCOLS
    app.config["WEBSOCKETS_COMPRESSION"] = OPTIONS._asdict()
    app.logger.handlers[:] = [Refuse()]
    app.logger.propagate = False
    sockets = WebSockets(app)
    chat = WebSockets(app, path="/chat/<int:room>", endpoint="chat")

    @chat.before_open
    def guard(room: int) -> None:
        if request.args.get("key") == "none" or room > 9:
            abort(403)

    @chat.on_open
    def enter(room: int) -> str:
        return f"in {room}"

    @sockets.route("/loop/<name>")
    def loop(ws: t.Any, name: str) -> str:
        return name

    @app.get("/page")
    def page() -> str:
        return "a page"

    return app


APP = make_app()


def shake(path: str, fields: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
    """The status and the fields that the server is given, and what the client receives."""
    client, server = socket.socketpair()
    statuses: list[str] = []
    headers: list[tuple[str, str]] = []

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: t.Any = None) -> t.Any:
        statuses.append(status)
        headers[:] = fields
        return lambda data: None

    with client, server:
        client.shutdown(socket.SHUT_WR)
        body = APP.wsgi_app(make_environ(path, fields, server), start_response)
        try:
            b"".join(body)
        finally:
            getattr(body, "close", lambda: None)()
        server.close()
        sent = b""
        while piece := client.recv(65536):
            sent += piece
    assert len(statuses) == 1, statuses
    return int(statuses[0][:3]), headers, sent


def make_environ(path: str, fields: dict[str, str], server: socket.socket) -> dict[str, t.Any]:
    """As Werkzeug's server makes it."""
    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": fields["method"],
        "SERVER_PROTOCOL": fields["version"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes("/" + path.lstrip("/")).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "werkzeug.socket": server,
    }
    for name, value in fields.items():
        key = name.upper().replace("-", "_")
        if name not in ("method", "version"):
            environ[key if name in ("content-length", "content-type") else f"HTTP_{key}"] = value
    return environ


def check_accepted(fields: dict[str, str], sent: bytes) -> None:
    """A request that is answered 101 is a handshake (RFC 6455, section 4.2.1)."""
    assert fields["method"] == "GET"
    assert fields["version"] not in ("HTTP/0.9", "HTTP/1.0")
    assert fields["sec-websocket-version"].strip() == "13"
    assert slow_is_key(fields["sec-websocket-key"].strip())
    assert "websocket" in tokens(fields["upgrade"].lower())
    assert "upgrade" in tokens(fields["connection"].lower())
    head, _, _frames = sent.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    assert status == "HTTP/1.1 101 Switching Protocols"
    answer = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    accepted = hashlib.sha1(
        fields["sec-websocket-key"].strip().encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    ).digest()
    assert answer["sec-websocket-accept"] == base64.b64encode(accepted).decode()
    subprotocol = answer.get("sec-websocket-protocol")
    offered = slow_tokens(fields.get("sec-websocket-protocol", ""))
    ours = [name for name in SUBPROTOCOLS if name in offered]
    assert subprotocol == (ours[0] if ours else None)


def tokens(value: str) -> list[str]:
    return [token.strip(" \t") for token in value.split(",")]


def seeds() -> t.Iterator[bytes]:
    """Where a corpus begins: a request for each thing that is judged."""
    yield b""
    for path in ("chat/1", "chat/10", "chat/1?key=none", "loop/x", "page", "none", "%ff"):
        yield path.encode()
    for line in (
        "method:POST",
        "version:HTTP/1.0",
        "host:example.org:80",
        "origin:http://localhost",
        "upgrade",
        "upgrade:h2c",
        "connection:keep-alive, Upgrade",
        "sec-websocket-key",
        f"sec-websocket-key:{KEY}\nsec-websocket-key:{KEY}",
        "sec-websocket-version:8",
        "sec-websocket-protocol:chat, v2",
        "sec-websocket-extensions:permessage-deflate; client_max_window_bits, foo;a=1",
        'sec-websocket-extensions:permessage-deflate; server_max_window_bits="10"',
        "sec-websocket-extensions:permessage-deflate; client_no_context_takeover",
        "cookie:session=a.b.c",
        "content-length:5\ntransfer-encoding:chunked\nexpect:100-continue",
    ):
        yield f"\n{line}".encode()

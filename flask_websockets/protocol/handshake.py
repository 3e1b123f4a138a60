"""The header fields of the opening handshake (RFC 6455, section 4; RFC 7692, section 5)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re

#: :rfc:`6455#section-1.3`.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKENS = re.compile(_TOKEN)
#: One parameter or name, and what ends it. Each match starts where the last one
#: ended and no part of it can match the same text in two ways: linear time.
_ITEM = re.compile(
    rf"[ \t]*(?:({_TOKEN})[ \t]*)?(?:=[ \t]*(?:({_TOKEN})|\"((?:[^\"\\]|\\.)*)\")[ \t]*)?([;,]|\Z)"
)

_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://"
    r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?"
)
#: The scheme and the port of a page whose socket, or whose proxy, says something else.
_SCHEMES = {"ws": "http", "wss": "https"}
_PORTS = {"http": 80, "https": 443}
#: Origins without a host: of a page in a sandbox or from a file; and Electron's from a file.
_OPAQUE = ("null", "file://")


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers *key* (:rfc:`6455#section-4.2.2`)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def is_valid_key(key: str) -> bool:
    """Whether *key* is the base64 of 16 bytes (:rfc:`6455#section-4.1`)."""
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def split_tokens(value: str) -> list[str]:
    """Read a comma-separated list of tokens, such as Sec-WebSocket-Protocol.

    :raises ValueError: if an item is not a token. Empty items are skipped, as
        :rfc:`9110#section-5.6.1` asks of who receives them.
    """
    items = [item.strip(" \t") for item in value.split(",")]
    for item in items:
        if item and not _TOKENS.fullmatch(item):
            raise ValueError(f"{item[:40]!r} is not a token")
    return [item for item in items if item]


def has_token(value: str, token: str) -> bool:
    """Whether *token*, in lower case, is in a list such as Upgrade and Connection."""
    return any(item.strip(" \t") == token for item in value.lower().split(","))


def normalize_origin(value: str) -> str:
    """Write an origin (:rfc:`6454#section-7`) in the one way that can be compared.

    :return: the scheme and the host in lower case, and the port unless it is the scheme's
        own. A socket's scheme becomes that of its page.
    :raises ValueError: if it is no origin, as with a path, or is several.
    """
    if value in _OPAQUE:
        return value
    match = _ORIGIN.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:40]!r} is not an origin")
    scheme, host, digits = match[1].lower(), match[2].lower(), match[3]
    scheme = _SCHEMES.get(scheme, scheme)
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
    port = None if digits is None else int(digits)
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is not a port")
    return f"{scheme}://{host}" + ("" if port in (None, _PORTS.get(scheme)) else f":{port}")


def parse_extensions(value: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Read Sec-WebSocket-Extensions (:rfc:`6455#section-9.1`).

    :return: the name of each extension with its parameters, in order.
    :raises ValueError: if the value does not fit the grammar.
    """
    extensions: list[tuple[str, list[tuple[str, str | None]]]] = []
    position, inside = 0, False
    while position < len(value):
        match = _ITEM.match(value, position)
        if match is None:
            raise ValueError(f"{value[position : position + 40]!r} is not an extension")
        name, token, quoted, end = match.groups()
        argument = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if name is None and (inside or argument is not None or end == ";"):
            raise ValueError(f"a name is missing before {value[match.start() :][:40]!r}")
        if quoted is not None and not _TOKENS.fullmatch(argument or ""):
            raise ValueError(f"{quoted[:40]!r} is not a token")
        if inside:
            extensions[-1][1].append((name, argument))
        elif name is not None:
            if argument is not None:
                raise ValueError(f"{name!r} is an extension's name and takes no value")
            extensions.append((name, []))
        inside = end == ";"
        position = match.end()
    if inside:
        raise ValueError("it ends in a semicolon")
    return extensions

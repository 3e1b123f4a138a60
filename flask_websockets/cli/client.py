"""A connection of websocket-client, as commands use it. Its errors are sentences."""

from __future__ import annotations

import contextlib
import html
import re
import ssl
import typing as t
from urllib.parse import urlsplit

import click

from .show import safe

try:
    from websocket import ABNF
    from websocket import WebSocket
    from websocket import WebSocketAddressException
    from websocket import WebSocketBadStatusException
    from websocket import WebSocketException
except ImportError:
    raise click.ClickException(
        "This command needs websocket-client: pip install 'Flask-WebSockets[client]'"
    ) from None

#: Seconds for the handshake.
_OPEN_TIME = 10.0

#: Fields that websocket-client writes by itself, and its names for them.
_OWN_FIELDS = {"host": "host", "origin": "origin"}


class Pong(t.NamedTuple):
    """An answer to a Ping."""

    payload: bytes


class Client:
    """An open connection.

    :param url: where to connect to.
    :param headers: fields of the handshake.
    :param subprotocols: what to offer.
    :raises click.ClickException: if it cannot be opened; it says why.
    """

    def __init__(
        self, url: str, headers: t.Iterable[t.Sequence[str]], subprotocols: t.Sequence[str]
    ) -> None:
        self.url = url
        #: The close code and reason, once it is over.
        self.code = 1006
        self.reason = ""
        self._websocket: t.Any = t.cast(t.Any, WebSocket(skip_utf8_validation=True))
        #: The code of our Close frame, if it is the first.
        self.asked: int | None = None
        self._websocket.send_close = self._answer_close
        options: dict[str, t.Any] = {"header": [], "subprotocols": list(subprotocols) or None}
        cookies = []
        for name, value in headers:
            if name.lower() == "cookie":
                cookies.append(value)
            elif name.lower() in _OWN_FIELDS:
                options[_OWN_FIELDS[name.lower()]] = value
            else:
                options["header"].append(f"{name}: {value}")
        if cookies:
            options["cookie"] = "; ".join(cookies)
        try:
            self._websocket.connect(url, timeout=_OPEN_TIME, **options)
        except (WebSocketException, OSError, ValueError) as error:
            raise click.ClickException(_explain(url, error)) from None
        self._websocket.settimeout(None)

    @property
    def subprotocol(self) -> str | None:
        """The one that the server has chosen."""
        return t.cast("str | None", self._websocket.subprotocol)

    def fileno(self) -> int:
        """For ``select``."""
        return int(self._websocket.fileno())

    @property
    def has_more(self) -> bool:
        """Whether TLS keeps bytes that ``select`` does not see."""
        sock = self._websocket.sock
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def receive(self) -> str | bytes | Pong | None:
        """Wait for a message or a Pong; None when the connection is over."""
        while True:
            try:
                opcode, frame = self._websocket.recv_data_frame(True)
            except (WebSocketException, OSError):
                return None
            if opcode == ABNF.OPCODE_TEXT:
                # Not checked by websocket-client, which takes a second for a megabyte.
                return str(frame.data, "utf-8", "replace")
            if opcode == ABNF.OPCODE_BINARY:
                return bytes(frame.data)
            if opcode == ABNF.OPCODE_PONG:
                return Pong(bytes(frame.data))
            if opcode == ABNF.OPCODE_CLOSE:
                self.code = int.from_bytes(frame.data[:2], "big") if frame.data else 1005
                self.reason = frame.data[2:].decode("utf-8", "replace")
                return None

    def send(self, data: str | bytes) -> None:
        """Send a message. If the connection is over, :meth:`receive` says so."""
        self._send(data, ABNF.OPCODE_TEXT if isinstance(data, str) else ABNF.OPCODE_BINARY)

    def ping(self, payload: bytes) -> None:
        """Send a Ping."""
        self._send(payload, ABNF.OPCODE_PING)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake, unless that is done."""
        if self.asked is None:
            self.asked = code
            self._send_close(code, reason)

    def abort(self) -> None:
        """Wake up who receives: the connection is over."""
        self._websocket.abort()

    def hang_up(self) -> None:
        """Close the socket."""
        self._websocket.shutdown()

    def _answer_close(self) -> None:
        # websocket-client would send a second one where ours was the first.
        if self.asked is None:
            self._send_close(1000, "")

    def _send_close(self, code: int, reason: str) -> None:
        self._send(code.to_bytes(2, "big") + reason.encode(), ABNF.OPCODE_CLOSE)

    def _send(self, data: str | bytes, opcode: int) -> None:
        with contextlib.suppress(WebSocketException, OSError):
            self._websocket.send(data, opcode)


def _explain(url: str, error: Exception) -> str:
    """A sentence for who wanted to connect."""
    if isinstance(error, WebSocketBadStatusException):
        body = error.resp_body or b""
        said = _sentence(body.decode("utf-8", "replace"), error.resp_headers or {})
        status = f"{error.status_code} {error.status_message or ''}".strip()
        return f"{url} refused the handshake with {status}" + (f": {said}" if said else ".")
    if isinstance(error, ConnectionRefusedError):
        port = urlsplit(url).port or "PORT"
        return (
            f"Nothing listens at {url}. Start the server, as flask run --port {port} does, or "
            "say where it is with --host and --port."
        )
    if isinstance(error, WebSocketAddressException):
        return f"The host of {url} is not known here."
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return f"{url} did not answer within {_OPEN_TIME:g} seconds."
    if isinstance(error, ssl.SSLError):
        return (
            f"TLS with {url} failed: {error}. A certificate of your own is trusted if "
            "WEBSOCKET_CLIENT_CA_BUNDLE names its file."
        )
    return f"{url} cannot be connected to: {safe(str(error)) or type(error).__name__}."


def _sentence(body: str, fields: t.Mapping[str, str]) -> str:
    """What the body of an error says, without the markup of its page."""
    if "html" in fields.get("content-type", ""):
        paragraphs = re.findall(r"(?is)<p\b[^>]*>(.*?)</p>", body)
        body = html.unescape(re.sub(r"<[^>]*>", "", " ".join(paragraphs)))
    return safe(" ".join(body.split())[:300])

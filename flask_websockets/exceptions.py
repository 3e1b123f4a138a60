"""The errors that users meet.

WebSocketError
|-- ConnectionClosed      there is no more to send to, or nothing left to receive
`-- HandshakeError        (also an HTTPException) the opening handshake is refused
    |-- BadHandshake      400
    |-- OriginNotAllowed  403
    |-- ExpectationFailed 417
    |-- UpgradeRequired   426
    |-- ServerUnsupported 501
    `-- Unavailable       503
"""

from __future__ import annotations

import typing as t

from werkzeug.exceptions import HTTPException

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class WebSocketError(Exception):
    """What all errors of this package have in common."""


class ConnectionClosed(WebSocketError):
    """Nothing can be sent any more, or nothing is left to be received.

    Left uncaught in a handler it ends that handler and nothing else.

    :param code: the close code; see :class:`.CloseCode`. 1006 if the connection was
        lost without a Close frame.
    :param reason: the close reason.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the connection is closed with code {self.code}" + (
            f": {self.reason}" if self.reason else ""
        )


class HandshakeError(WebSocketError, HTTPException):
    """The opening handshake is refused with a plain HTTP response.

    ``app.errorhandler`` takes it as any other HTTP exception.
    """

    #: Header fields that the response must carry.
    fields: tuple[tuple[str, str], ...] = ()

    def __init__(self, description: str) -> None:
        HTTPException.__init__(self, description)

    def get_body(
        self,
        environ: WSGIEnvironment | None = None,
        scope: dict[str, t.Any] | None = None,
    ) -> str:
        """The sentence alone: who reads it looks at a log, not at a page."""
        return f"{self.description}\n"

    def get_headers(
        self,
        environ: WSGIEnvironment | None = None,
        scope: dict[str, t.Any] | None = None,
    ) -> list[tuple[str, str]]:
        """The fields of the response."""
        return [("Content-Type", "text/plain; charset=utf-8"), *self.fields]


class BadHandshake(HandshakeError):
    """The request is no handshake as :rfc:`6455#section-4.2.1` has it."""

    code = 400


class OriginNotAllowed(HandshakeError):
    """A page of another site asks, which ``WEBSOCKETS_ALLOWED_ORIGINS`` does not list
    (:rfc:`6455#section-10.2`)."""

    code = 403


class ExpectationFailed(HandshakeError):
    """The request has an Expect field, though there is nothing to wait for
    (:rfc:`9110#section-15.5.18`)."""

    code = 417


class UpgradeRequired(HandshakeError):
    """The URL serves WebSocket version 13 and nothing else (:rfc:`9110#section-15.5.22`)."""

    code = 426
    name = "Upgrade Required"
    fields = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))


class ServerUnsupported(HandshakeError):
    """The WSGI server does not lend its socket."""

    code = 501


class Unavailable(HandshakeError):
    """No connection is taken now; one may be, a little later."""

    code = 503
    fields = (("Retry-After", "5"),)

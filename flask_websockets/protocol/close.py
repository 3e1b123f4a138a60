"""Close codes and the payload of Close frames (RFC 6455, sections 5.5.1 and 7.4)."""

from __future__ import annotations

import typing as t
from enum import IntEnum


class CloseCode(IntEnum):
    """The registered close codes by name.

    :rfc:`6455#section-7.4.1` and the IANA registry of WebSocket close codes.
    1005, 1006 and 1015 only describe what happened; they never travel in a frame.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class Close(t.NamedTuple):
    """The peer's Close frame: its code (1005 if it named none) and reason."""

    code: int
    reason: str


_NEVER_SENT = frozenset({1004, 1005, 1006, 1015})
#: A control frame carries 125 bytes at most, and two of them are the code.
MAX_REASON_SIZE = 123


def is_sendable(code: int) -> bool:
    """Whether a Close frame may carry *code* (:rfc:`6455#section-7.4.2`)."""
    return (1000 <= code <= 1014 and code not in _NEVER_SENT) or 3000 <= code <= 4999


def encode_close(code: int, reason: str = "") -> bytes:
    """Build the payload of a Close frame.

    :param code: 1000 to 1014 without 1004, 1005 and 1006, or 3000 to 4999; 1005
        stands for a Close frame without a code.
    :param reason: at most 123 bytes of UTF-8.
    :raises ValueError: if the code may not be sent or the reason is too long.
    """
    if code == CloseCode.NO_STATUS_RECEIVED and not reason:
        return b""
    if not is_sendable(code):
        raise ValueError(
            f"Close code {code} may not be sent. Use 1000 to 1003, 1007 to 1014, "
            "or 3000 to 4999 for codes of your own."
        )
    payload = reason.encode()
    if len(payload) > MAX_REASON_SIZE:
        raise ValueError(
            f"The close reason is {len(payload)} bytes long in UTF-8. "
            f"At most {MAX_REASON_SIZE} fit in a Close frame."
        )
    return code.to_bytes(2, "big") + payload


def decode_close(payload: bytes) -> Close:
    """Read the payload of a Close frame.

    :raises ValueError: if it is one byte long or carries a code that may not be sent.
    :raises UnicodeDecodeError: if the reason is not UTF-8.
    """
    if not payload:
        return Close(CloseCode.NO_STATUS_RECEIVED, "")
    if len(payload) == 1:
        raise ValueError("a Close payload of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise ValueError(f"close code {code}")
    return Close(code, payload[2:].decode())

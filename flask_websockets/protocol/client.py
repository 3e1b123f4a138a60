"""The client's side of one connection as a machine of bytes, for tests in memory.

Knows frames as a client sends and takes them. It trusts the server, which is this package:
frames against the rules are an error, not an event.
"""

from __future__ import annotations

import os
import sys
import typing as t

from .close import decode_close
from .close import encode_close
from .connection import Event
from .connection import Ping
from .connection import Pong
from .deflate import Agreement
from .deflate import Options
from .deflate import PerMessageDeflate
from .frames import apply_mask
from .frames import BINARY
from .frames import CLOSE
from .frames import CONTINUATION
from .frames import FIN
from .frames import MASKED
from .frames import PING
from .frames import PONG
from .frames import RSV1
from .frames import RSV2_AND_3
from .frames import TEXT
from .handshake import parse_extensions

#: What :func:`agree` understands the answer to.
OFFER: t.Final = "permessage-deflate; client_max_window_bits"
#: Larger messages are sent in frames of this many bytes, as browsers do.
FRAME_SIZE: t.Final = 131072


class ClientProtocol:
    """Turn what the server sends into events, and messages into masked frames for it.

    :param deflate: permessage-deflate from the client's side, where it was agreed on.
    """

    def __init__(self, deflate: PerMessageDeflate | None = None) -> None:
        self._deflate = deflate
        self._buffer = b""
        # The message that is arriving: its first frame's opcode, or 0 for none.
        self._opcode = 0
        self._compressed = False
        self._message = b""

    def encode_message(self, data: str | bytes) -> bytes:
        """The frames that carry a message: str as text, bytes as binary."""
        opcode, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        compressed = self._deflate is not None and bool(payload)
        if self._deflate is not None and payload:
            payload = self._deflate.deflate(payload)
        if len(payload) <= FRAME_SIZE:
            return _encode(opcode, payload, compressed=compressed)
        frames = []
        for start in range(0, len(payload), FRAME_SIZE):
            piece = payload[start : start + FRAME_SIZE]
            fin = start + FRAME_SIZE >= len(payload)
            frames.append(_encode(opcode, piece, fin=fin, compressed=compressed))
            # RFC 7692, section 6: only a message's first frame carries the bit.
            opcode, compressed = CONTINUATION, False
        return b"".join(frames)

    @staticmethod
    def encode_ping(payload: bytes) -> bytes:
        """A Ping frame; *payload* is at most 125 bytes."""
        return _encode(PING, payload)

    @staticmethod
    def encode_pong(payload: bytes) -> bytes:
        """A Pong frame; *payload* is that of the Ping it answers."""
        return _encode(PONG, payload)

    @staticmethod
    def encode_close(code: int, reason: str = "") -> bytes:
        """A Close frame. Codes, reasons and errors as for :func:`.encode_close`."""
        return _encode(CLOSE, encode_close(code, reason))

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the server and return what they complete, in order.

        :raises ValueError: if they are no frames of a server.
        """
        events: list[Event] = []
        data = self._buffer + data if self._buffer else data
        position, end = 0, len(data)
        while end - position >= 2:
            first, size = data[position], data[position + 1]
            if first & RSV2_AND_3 or size & MASKED:
                raise ValueError(f"the server sent no frame: {data[position : position + 20]!r}")
            start = position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if end < start:
                    break
                size = int.from_bytes(data[position + 2 : start], "big")
            if end < start + size:
                break
            position = start + size
            event = self._take_frame(first, data[start:position])
            if event is not None:
                events.append(event)
        self._buffer = data[position:]
        return events

    def _take_frame(self, first: int, payload: bytes) -> Event | None:
        opcode = first & 0x0F
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        if opcode == CLOSE:
            return decode_close(payload)
        if opcode:
            self._opcode, self._compressed = opcode, bool(first & RSV1)
        self._message += payload
        if not first & FIN:
            return None
        opcode, message = self._opcode, self._message
        self._opcode, self._message = 0, b""
        if self._compressed:
            assert self._deflate is not None
            message = self._deflate.inflate(message, sys.maxsize) + self._deflate.finish(
                sys.maxsize
            )
        return message.decode() if opcode == TEXT else message


def agree(header: str) -> PerMessageDeflate | None:
    """The client's half of what the server answered to :data:`OFFER`.

    :param header: the answer's Sec-WebSocket-Extensions.
    """
    for _, parameters in parse_extensions(header):
        answer = dict(parameters)
        # Named from the other side: what is the server's there, inflates here.
        return PerMessageDeflate(
            Agreement(
                server_no_context_takeover="client_no_context_takeover" in answer,
                client_no_context_takeover="server_no_context_takeover" in answer,
                server_max_window_bits=int(answer.get("client_max_window_bits") or 15),
                client_max_window_bits=int(answer.get("server_max_window_bits") or 15),
            ),
            Options(),
        )
    return None


def _encode(opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
    """One masked frame (:rfc:`6455#section-5.2`)."""
    first = opcode | (FIN if fin else 0) | (RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        head = bytes((first, MASKED | size))
    elif size < 0x10000:
        head = bytes((first, MASKED | 126, size >> 8, size & 0xFF))
    else:
        head = bytes((first, MASKED | 127)) + size.to_bytes(8, "big")
    # RFC 6455, section 5.3: a mask that nobody can foresee, for each frame.
    mask = os.urandom(4)
    return head + mask + apply_mask(payload, mask, 0, size)

"""The server's side of one connection as a machine of bytes (RFC 6455).

Knows frames, fragments, masks, UTF-8, control frames and the size limit. What
the peer does wrong is an event, :class:`Failure`, not an exception.
"""

from __future__ import annotations

import codecs
import sys
import typing as t
import zlib

from .close import Close
from .close import CloseCode
from .close import decode_close
from .close import encode_close
from .deflate import PerMessageDeflate
from .deflate import TooBig
from .frames import apply_mask
from .frames import BINARY
from .frames import CLOSE
from .frames import CONTINUATION
from .frames import encode_frame
from .frames import encode_message
from .frames import FIN
from .frames import MASKED
from .frames import MAX_CONTROL_SIZE
from .frames import PING
from .frames import PONG
from .frames import RSV1
from .frames import RSV2_AND_3
from .frames import TEXT
from .frames import unmask
from .frames import unmask_text


class Ping(t.NamedTuple):
    """The peer asks for a Pong with the same payload."""

    payload: bytes


class Pong(t.NamedTuple):
    """The peer answers a Ping, or says unasked that it lives."""

    payload: bytes


class Failure(t.NamedTuple):
    """The peer broke the protocol: close with this code and sentence."""

    code: int
    reason: str


#: A text message is a str and a binary one is bytes.
Event = t.Union[str, bytes, Ping, Pong, Close, Failure]


class _Broken(Exception):
    def __init__(self, code: int, reason: str) -> None:
        self.failure = Failure(code, reason)


_decoder = codecs.getincrementaldecoder("utf-8")


class Protocol:
    """Turn what a client sends into events, and messages into frames for it.

    :param max_message_size: the largest message taken, in bytes, after its
        fragments are joined and inflated.
    :param deflate: permessage-deflate, where the handshake agreed on it.
    """

    __slots__ = (
        "_buffer",
        "_compressed",
        "_deflate",
        "_done",
        "_fin",
        "_left",
        "_mask",
        "_max_size",
        "_message",
        "_opcode",
        "_room",
        "_utf8",
        "_wire_size",
        "has_controls",
        "has_more",
    )

    def __init__(self, max_message_size: int, deflate: PerMessageDeflate | None = None) -> None:
        # So that twice as much is still a size in C.
        self._max_size = min(max_message_size, sys.maxsize // 4)
        self._deflate = deflate
        self.has_controls = False
        self.has_more = False
        self._done = False
        # The start of a header or a control frame, not yet whole, or what there was no room for.
        self._buffer = b""
        self._room = 0
        # The message that is arriving: its first frame's opcode, or 0 for none.
        self._opcode = 0
        self._compressed = False
        self._message = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._wire_size = 0
        # The data frame that is arriving: how much of its payload is still to come.
        self._left = 0
        self._fin = False
        self._mask = b""

    def receive(self, data: bytes, room: int = sys.maxsize) -> list[Event]:
        """Take bytes of the peer and return what they complete, in order.

        After a Close or a Failure the rest is ignored (:rfc:`6455#section-1.4`).
        :attr:`has_controls` says whether anything but messages is among them.

        :param data: any number of bytes, cut anywhere.
        :param room: when messages that came compressed have so many bytes together, the rest
            is left for the next call, and :attr:`has_more` is true. Few bytes can be very
            many such messages.
        """
        events: list[Event] = []
        self.has_controls = False
        self.has_more = False
        self._room = room
        if self._done:
            return events
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            self._parse(data, events)
        except _Broken as broken:
            events.append(broken.failure)
            self.has_controls = True
            self._done = True
            self._message = bytearray()
        return events

    def encode_message(self, data: str | bytes) -> bytes:
        """The frame that carries a whole message: str as text, bytes as binary.

        :raises UnicodeEncodeError: if the text has a surrogate half in it.
        """
        if self._deflate is None or not data:
            return encode_message(data)
        if isinstance(data, str):
            return encode_frame(TEXT, self._deflate.deflate(data.encode()), compressed=True)
        return encode_frame(BINARY, self._deflate.deflate(data), compressed=True)

    @staticmethod
    def encode_plain(data: str | bytes) -> bytes:
        """The same without compression, so that many connections can share it."""
        return encode_message(data)

    def encode_shared(self, data: str | bytes, frames: dict[t.Hashable, bytes]) -> bytes:
        """The same as :meth:`encode_message`, made once for all connections that can share it.

        :param frames: those that there are: that of all who do not compress by None, and
            one for each set of parameters without context takeover.
        """
        if self._deflate is None or not data:
            return frames[None]
        key = self._deflate.shared_key
        if key is None:
            return self.encode_message(data)
        frame = frames.get(key)
        if frame is None:
            frame = frames[key] = self.encode_message(data)
        return frame

    @staticmethod
    def encode_ping(payload: bytes) -> bytes:
        """A Ping frame; *payload* is at most 125 bytes."""
        return encode_frame(PING, payload)

    @staticmethod
    def encode_pong(payload: bytes) -> bytes:
        """A Pong frame; *payload* is that of the Ping it answers."""
        return encode_frame(PONG, payload)

    @staticmethod
    def encode_close(code: int, reason: str = "") -> bytes:
        """A Close frame. Codes, reasons and errors as for :func:`.encode_close`."""
        return encode_frame(CLOSE, encode_close(code, reason))

    # Receiving, a frame at a time

    def _parse(self, data: bytes, events: list[Event]) -> None:
        position, end = 0, len(data)
        while True:
            if self._left:
                start = position
                position = min(end, start + self._left)
                self._take_piece(data, start, position)
                if self._left:
                    return
                if self._fin:
                    events.append(self._finish_message())
                    if self._room <= 0:
                        self.has_more = True
                        break
            if end - position < 2:
                break
            first, second = data[position], data[position + 1]
            opcode = first & 0x0F
            # Whole messages need no check but this: FIN, TEXT or BINARY, and a mask.
            is_whole = 0x81 <= first <= 0x82 and second >= MASKED and not self._opcode
            if not is_whole:
                self._check_header(first, second, opcode)
            size = second & 0x7F
            start = position + 2
            if size == 126:
                start += 2
                if end < start:
                    break
                size = data[start - 2] << 8 | data[start - 1]
            elif size == 127:
                start += 8
                if end < start:
                    break
                size = self._read_size(data[start - 8 : start])
            if size > self._max_size - self._wire_size and opcode < CLOSE:
                self._check_size(size, first)
            start += 4
            if end < start:
                break
            position = start + size
            if is_whole and position <= end:
                if opcode == BINARY:
                    events.append(unmask(data, start, position))
                    continue
                try:
                    events.append(unmask_text(data, start, position))
                except UnicodeDecodeError:
                    raise _Broken(CloseCode.INVALID_PAYLOAD, "text is not UTF-8") from None
                continue
            if opcode >= CLOSE:
                if end < position:
                    position = start - 6  # a control frame's header has six bytes
                    break
                payload = unmask(data, start, position)
                self.has_controls = True
                events.append(self._read_control(opcode, payload))
                if opcode == CLOSE:
                    self._done = True
                    return
                continue
            self._start_frame(first, opcode, size, data[start - 4 : start])
            position = start
            if size == 0 and self._fin:
                events.append(self._finish_message())
                if self._room <= 0:
                    self.has_more = True
                    break
        if position < end:
            self._buffer = data[position:]

    def _check_header(self, first: int, second: int, opcode: int) -> None:
        """Refuse a frame by its first two bytes, before any more of it is read."""
        if first & RSV2_AND_3:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved bits are set")
        if not second & MASKED:
            # RFC 6455, section 5.1: a server MUST close upon an unmasked frame.
            raise _Broken(CloseCode.PROTOCOL_ERROR, "a client's frames must be masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise _Broken(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if first & RSV1:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved bits are set")
            if not first & FIN:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "a control frame is fragmented")
            if second & 0x7F > MAX_CONTROL_SIZE:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "a control frame is over 125 bytes")
        elif opcode > BINARY:
            raise _Broken(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        elif opcode == CONTINUATION:
            if not self._opcode:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "there is no message to continue")
            if first & RSV1:
                # RFC 7692, section 6: only a message's first frame carries the bit.
                raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved bits are set")
        elif self._opcode:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "the last message is not finished")
        elif first & RSV1 and self._deflate is None:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved bits are set")

    @staticmethod
    def _read_size(field: bytes) -> int:
        """The size in the eight bytes of a long header.

        A size in more bytes than it needs is taken, although a sender must not write
        it so (:rfc:`6455#section-5.2`): nothing can be misread.
        """
        if field[0] >> 7:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "the length's first bit is set")
        return int.from_bytes(field, "big")

    def _check_size(self, size: int, first: int) -> None:
        """Refuse a data frame by the size it claims."""
        if self._compressed or first & RSV1:
            # Deflate can grow what does not compress, and every flush adds a few
            # bytes: twice the limit leaves room for any sender that means well.
            limit = 2 * self._max_size + 1024
        else:
            limit = self._max_size
        if size > limit - self._wire_size:
            raise self._too_big()

    def _start_frame(self, first: int, opcode: int, size: int, mask: bytes) -> None:
        if opcode:
            self._opcode = opcode
            self._compressed = bool(first & RSV1)
            self._utf8 = _decoder() if opcode == TEXT else None
        self._fin = bool(first & FIN)
        self._left = size
        self._mask = mask
        self._wire_size += size

    def _take_piece(self, data: bytes, start: int, end: int) -> None:
        """Take a part of a data frame's payload, checked as it arrives."""
        if start == end:
            return
        self._left -= end - start
        piece = apply_mask(data, self._mask, start, end)
        if self._left:
            turn = (end - start) & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        if self._compressed:
            self._inflate(piece)
        else:
            self._append(piece)

    def _inflate(self, data: bytes | None) -> None:
        """Inflate a piece, or with None the end of the message."""
        assert self._deflate is not None
        room = self._max_size - len(self._message)
        try:
            if data is None:
                data = self._deflate.finish(room)
            else:
                data = self._deflate.inflate(data, room)
        except TooBig as error:
            # Text may have been wrong before it was too big, which counts however it is cut.
            if self._utf8 is not None:
                self._check_utf8(self._utf8, error.data)
            raise self._too_big() from None
        except zlib.error:
            raise _Broken(CloseCode.INVALID_PAYLOAD, "the message is not deflate") from None
        self._append(data)

    def _append(self, data: bytes) -> None:
        if self._utf8 is not None:
            self._check_utf8(self._utf8, data)
        self._message += data

    @staticmethod
    def _check_utf8(decoder: codecs.IncrementalDecoder, data: bytes, final: bool = False) -> None:
        """Fail at the first byte that no UTF-8 text could have there."""
        try:
            decoder.decode(data, final)
        except UnicodeDecodeError:
            raise _Broken(CloseCode.INVALID_PAYLOAD, "text is not UTF-8") from None
        pending = decoder.getstate()[0]
        # Python reports a surrogate half (ED A0 to ED BF) at its third byte only.
        if len(pending) == 2 and pending[0] == 0xED and pending[1] >= 0xA0:
            raise _Broken(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")

    def _finish_message(self) -> str | bytes:
        if self._compressed and self._wire_size:
            # An empty message should be one zero byte, but no byte says it as well.
            self._inflate(None)
            self._room -= len(self._message)
        if self._utf8 is not None:
            self._check_utf8(self._utf8, b"", final=True)
            message: str | bytes = self._message.decode()
        else:
            message = bytes(self._message)
        self._opcode = 0
        self._compressed = False
        self._message = bytearray()
        self._utf8 = None
        self._wire_size = 0
        return message

    @staticmethod
    def _read_control(opcode: int, payload: bytes) -> Event:
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        try:
            return decode_close(payload)
        except UnicodeDecodeError:
            raise _Broken(CloseCode.INVALID_PAYLOAD, "the close reason is not UTF-8") from None
        except ValueError as error:
            raise _Broken(CloseCode.PROTOCOL_ERROR, f"{error} is not allowed") from None

    def _too_big(self) -> _Broken:
        return _Broken(
            CloseCode.MESSAGE_TOO_BIG, f"a message may have {self._max_size} bytes at most"
        )

"""The layout of a frame (RFC 6455, section 5.2): opcodes, lengths and masks."""

from __future__ import annotations

import sys
import typing as t

CONTINUATION: t.Final = 0x0
TEXT: t.Final = 0x1
BINARY: t.Final = 0x2
CLOSE: t.Final = 0x8
PING: t.Final = 0x9
PONG: t.Final = 0xA

FIN: t.Final = 0x80
RSV1: t.Final = 0x40
RSV2_AND_3: t.Final = 0x30
MASKED: t.Final = 0x80

#: The largest payload of a control frame, in bytes (:rfc:`6455#section-5.5`).
MAX_CONTROL_SIZE: t.Final = 125


def encode_frame(opcode: int, payload: bytes, *, compressed: bool = False) -> bytes:
    """Build one final, unmasked frame, as a server sends it.

    :param opcode: one of the opcodes of this module.
    :param payload: the whole payload.
    :param compressed: whether RSV1 says that the payload is deflated
        (:rfc:`7692#section-6`).
    """
    first = FIN | opcode | (RSV1 if compressed else 0)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 0x10000:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def check_ping(payload: bytes) -> None:
    """Judge the payload of a Ping.

    :raises ValueError: if it is longer than a control frame's may be.
    """
    if len(payload) > MAX_CONTROL_SIZE:
        raise ValueError(f"A Ping carries at most {MAX_CONTROL_SIZE} bytes, not {len(payload)}.")


def encode_message(data: str | bytes) -> bytes:
    """Build the frame of a whole message: str as text, bytes as binary.

    :raises UnicodeEncodeError: if the text has a surrogate half in it.
    """
    if isinstance(data, str):
        return encode_frame(TEXT, data.encode())
    return encode_frame(BINARY, data)


def apply_mask(data: bytes, mask: bytes, start: int, end: int) -> bytes:
    """XOR *data* from *start* to *end* with the four bytes of *mask*, over and over.

    One XOR of two big integers (:rfc:`6455#section-5.3`): 20 times faster than a loop
    over the bytes.
    """
    size = end - start
    repeated = mask * (size >> 2) + mask[: size & 3]
    order = sys.byteorder
    part = int.from_bytes(data[start:end], order)
    return (part ^ int.from_bytes(repeated, order)).to_bytes(size, order)


def unmask(data: bytes, start: int, end: int) -> bytes:
    """The payload of a whole frame, from *start* to *end*, with its mask before it."""
    return apply_mask(data, data[start - 4 : start], start, end)


def unmask_text(data: bytes, start: int, end: int) -> str:
    """The same as text.

    :raises UnicodeDecodeError: if it is not UTF-8.
    """
    return unmask(data, start, end).decode()


try:
    from ._speedups import apply_mask as apply_mask
    from ._speedups import encode_message as encode_message
    from ._speedups import unmask as unmask
    from ._speedups import unmask_text as unmask_text
except ImportError:
    pass  # not compiled

"""A client's side of RFC 6455 and RFC 7692, slow and obviously right.

Written from the RFCs a bit and a byte at a time. It shares no line with the
package, so that neither can be wrong in the same way as the other.
"""

from __future__ import annotations

import random
import typing as t
import zlib

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

#: The mask of the examples in RFC 6455, section 5.7.
MASK = b"\x37\xfa\x21\x3d"


def mask_slowly(data: bytes, mask: bytes) -> bytes:
    """RFC 6455, section 5.3: octet i is XORed with octet i modulo 4 of the mask."""
    masked = bytearray()
    for index in range(len(data)):
        masked.append(data[index] ^ mask[index % 4])
    return bytes(masked)


def header(
    opcode: int, size: int, *, fin: bool = True, rsv: int = 0b000, masked: bool = True
) -> bytes:
    """RFC 6455, section 5.2, up to the masking key. *rsv* is RSV1, RSV2 and RSV3."""
    first = fin * 0b10000000 + rsv * 0b00010000 + opcode
    mask_bit = masked * 0b10000000
    if size <= 125:
        return bytes([first, mask_bit + size])
    length = bytearray()
    for shift in range(8 if size <= 65535 else 56, -1, -8):
        length.append((size >> shift) % 256)
    return bytes([first, mask_bit + (126 if size <= 65535 else 127)]) + bytes(length)


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK
) -> bytes:
    """One masked frame."""
    return header(opcode, len(payload), fin=fin, rsv=rsv) + mask + mask_slowly(payload, mask)


def server_frame(opcode: int, payload: bytes = b"", *, rsv: int = 0) -> bytes:
    """One final frame without a mask."""
    return header(opcode, len(payload), rsv=rsv, masked=False) + payload


def fragments(
    opcode: int, pieces: t.Sequence[bytes], *, rsv: int = 0, between: bytes = b""
) -> bytes:
    """A message with a frame for each piece, and *between* after each but the last."""
    frames = []
    for index, piece in enumerate(pieces):
        first, last = index == 0, index == len(pieces) - 1
        frames.append(
            client_frame(
                opcode if first else CONTINUATION, piece, fin=last, rsv=rsv if first else 0
            )
        )
    return between.join(frames)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A Close frame with a code and a reason."""
    return client_frame(CLOSE, bytes([code // 256, code % 256]) + reason)


def read_server_frame(data: bytes) -> tuple[int, int, bytes]:
    """The reserved bits, the opcode and the payload of one final frame without a mask."""
    assert data[0] & 0b10000000, "FIN"
    assert not data[1] & 0b10000000, "a server does not mask"
    if data[1] <= 125:
        start, size = 2, data[1]
    elif data[1] == 126:
        start, size = 4, int.from_bytes(data[2:4], "big")
    else:
        start, size = 10, int.from_bytes(data[2:10], "big")
    assert len(data) == start + size, "one frame and nothing else"
    return (data[0] >> 4) & 0b111, data[0] & 0b1111, data[start:]


class ZlibClient:
    """The client's half of permessage-deflate (RFC 7692, sections 7.2.1 and 7.2.2)."""

    def __init__(self, *, bits: int = 15, server_bits: int = 15, takeover: bool = True) -> None:
        self._bits = bits
        self._server_bits = server_bits
        self._takeover = takeover
        self._restart()

    def _restart(self) -> None:
        self._deflater = zlib.compressobj(6, zlib.DEFLATED, -self._bits)
        self._inflater = zlib.decompressobj(-self._server_bits)

    def deflate(self, payload: bytes) -> bytes:
        if not self._takeover:
            self._deflater = zlib.compressobj(6, zlib.DEFLATED, -self._bits)
        data = self._deflater.compress(payload) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        assert data[-4:] == b"\x00\x00\xff\xff"
        return data[:-4]

    def inflate(self, payload: bytes) -> bytes:
        if not self._takeover:
            self._inflater = zlib.decompressobj(-self._server_bits)
        return self._inflater.decompress(payload + b"\x00\x00\xff\xff")


def random_text(chance: random.Random, size: int) -> str:
    """*size* characters that take one to four bytes of UTF-8 each."""
    ranges = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))
    return "".join(chr(chance.randint(*chance.choice(ranges))) for _ in range(size))


def random_cuts(chance: random.Random, data: bytes, count: int) -> list[bytes]:
    """*data* in *count* pieces, cut anywhere; some are empty."""
    places = sorted(chance.randint(0, len(data)) for _ in range(count - 1))
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]

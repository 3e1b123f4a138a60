"""permessage-deflate: any payloads, cut anywhere, inflated within a room; any data deflated.

The first four bytes say what was agreed on, how much room there is, how the rest is cut and
where the first message ends.
"""

from __future__ import annotations

import random
import tracemalloc
import typing as t
import zlib

from clients import random_cuts
from clients import ZlibClient
from twins import SlowInflater

from flask_websockets.protocol.deflate import Agreement
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate
from flask_websockets.protocol.deflate import TooBig

# The bits of the first byte; three more choose the window.
TAKEOVER, OURS, DEFLATED, FINAL, MEASURED = 1, 2, 4, 8, 16
ROOMS = (0, 1, 100, 300, 1000, 5000, 20_000)

#: What zlib keeps for one direction at most, and what Python does around it.
STATE = 96 << 10


def check(data: bytes) -> None:
    """All of it."""
    if len(data) < 4:
        return
    flags, room, seed, first, rest = data[0], ROOMS[data[1] % 7], data[2], data[3], data[4:]
    takeover, bits = bool(flags & TAKEOVER), 8 + (flags >> 5)
    payloads = [rest[:first], rest[first:]]
    if flags & OURS:
        check_deflate(payloads, takeover, max(bits, 9), seed % 10)
    if flags & DEFLATED:
        client = ZlibClient(bits=max(bits, 9), takeover=takeover)
        payloads = [client.deflate(payload * (1 + seed % 20)) for payload in payloads]
    elif flags & FINAL:
        payloads = [final_blocks(payload) for payload in payloads]
    chance = random.Random(seed)
    messages = [random_cuts(chance, payload, 1 + seed % 16) for payload in payloads]
    check_inflate(messages, takeover, bits, room)
    if flags & MEASURED:
        check_memory(messages, bits, room)


def final_blocks(data: bytes) -> bytes:
    """Three streams that end, and the byte that RFC 7692, section 7.2.3.4, has after them."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -9)
    return (deflater.compress(data) + deflater.flush()) * 3 + b"\x00"


def check_deflate(payloads: list[bytes], takeover: bool, bits: int, level: int) -> None:
    """What is deflated is what a client of that window inflates."""
    agreement = Agreement(not takeover, False, bits, 15)
    deflate = PerMessageDeflate(agreement, Options(level=level))
    client = ZlibClient(server_bits=bits, takeover=takeover)
    for payload in payloads:
        assert client.inflate(deflate.deflate(payload)) == payload


def check_inflate(messages: list[list[bytes]], takeover: bool, bits: int, room: int) -> None:
    """The same as of the twin, or the same fault."""
    deflate = PerMessageDeflate(Agreement(False, not takeover, 15, bits), Options())
    twin = SlowInflater(bits=bits, takeover=takeover)
    for pieces in messages:
        expected = twin.outcomes(b"".join(pieces), room)
        found = read(deflate, pieces, room)
        assert found in expected, (found, expected)
        if isinstance(found, str):
            return  # the connection is over


def read(deflate: PerMessageDeflate, pieces: list[bytes], room: int) -> bytes | str:
    """What comes of a message, in the twin's words."""
    data = b""
    try:
        for piece in pieces:
            data += deflate.inflate(piece, room - len(data))
            assert len(data) <= room, (len(data), room)
        return data + deflate.finish(room - len(data))
    except TooBig as error:
        return "too big" if len(data) + len(error.data) == room else "too big, of another size"
    except zlib.error:
        return "not deflate"


def check_memory(messages: list[list[bytes]], bits: int, room: int) -> None:
    """A bomb takes the room that it has, and no more."""
    deflate = PerMessageDeflate(Agreement(False, False, 15, bits), Options())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for pieces in messages:
            size = sum(map(len, pieces))
            tracemalloc.reset_peak()
            found = read(deflate, pieces, room)
            peak = tracemalloc.get_traced_memory()[1] - before
            # What is read is joined from pieces, and a copy of the rest is zlib's.
            assert peak <= 4 * room + 2 * size + STATE, (peak, room, size)
            if isinstance(found, str):
                return
    finally:
        tracemalloc.stop()


def seeds() -> t.Iterator[bytes]:
    """Where a corpus begins: payloads of the RFC, and of each mode."""
    rfc = [
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\x00\x05\x00\xfa\xffHello\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        b"\xf2\x48\xcd\xc9\xc9\x07\x00\xf2\x00\x11\x00\x00",
    ]
    for number, payload in enumerate(rfc):
        yield bytes([0xE0 | TAKEOVER, number, number, 7]) + payload
    text = b"Hello, hello, hello, " + bytes(range(40))
    for flags in range(0, 256, 7):
        yield bytes([flags, flags % 7, flags % 50, 12]) + text

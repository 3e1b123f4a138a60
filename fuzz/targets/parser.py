"""The parser, and what it sends: any bytes of a client, cut anywhere.

The first three bytes say what was agreed on and how the rest is cut. The rest is what a
client sends, or with ``BUILT`` a list of frames, so that a change of one frame leaves the
others whole.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
import typing as t

from clients import client_frame
from clients import random_cuts
from clients import read_server_frame
from clients import ZlibClient
from twins import SlowInflater
from twins import SlowServer

from flask_websockets.protocol import Protocol
from flask_websockets.protocol.deflate import Agreement
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate

# The bits of the first byte; two more choose among LIMITS.
DEFLATE, TAKEOVER, BUILT, MEASURED = 1, 2, 4, 8
LIMITS = (1, 125, 300, 3000)
# The bits of the second byte of a frame that is built.
DEFLATED, MASKED_WITH_ZEROS, LONG = 1, 2, 4

#: A number of chunks, or one for each byte where these are not too many.
EACH_BYTE = 100

#: What zlib keeps for one direction, and a decoder, a buffer's header and so on.
STATE = {False: 4096, True: 96 << 10}


class Agreed(t.NamedTuple):
    """What the connection has agreed on."""

    deflates: bool
    takeover: bool
    bits: int
    limit: int

    def protocol(self) -> Protocol:
        if not self.deflates:
            return Protocol(self.limit)
        no_takeover = not self.takeover
        agreement = Agreement(no_takeover, no_takeover, self.bits, self.bits)
        return Protocol(self.limit, PerMessageDeflate(agreement, Options()))

    def twin(self) -> SlowServer:
        if not self.deflates:
            return SlowServer(self.limit)
        return SlowServer(self.limit, SlowInflater(bits=self.bits, takeover=self.takeover))


def check(data: bytes) -> None:
    """All of it."""
    if len(data) < 3:
        return
    flags, bits, seed, wire = data[0], data[1], data[2], data[3:]
    agreed = Agreed(
        bool(flags & DEFLATE), bool(flags & TAKEOVER), 9 + bits % 7, LIMITS[flags >> 4 & 3]
    )
    if flags & BUILT:
        wire = build(wire, agreed)
    chance = random.Random(seed)
    count = chance.choice((1, 2, 5, 20, EACH_BYTE))
    if count == EACH_BYTE and len(wire) < 3000:
        chunks = [bytes([byte]) for byte in wire]
    else:
        chunks = random_cuts(chance, wire, count)
    told = check_events(agreed, wire, chunks)
    check_replies(agreed, told)
    if flags & MEASURED:
        check_memory(agreed, chunks)


def build(data: bytes, agreed: Agreed) -> bytes:
    """Frames, of each its first byte, how it is built, its size, and its payload."""
    client = ZlibClient(bits=agreed.bits, takeover=agreed.takeover)
    frames, position = [], 0
    while position + 3 <= len(data):
        first, how, size = data[position : position + 3]
        payload = data[position + 3 : position + 3 + size]
        position += 3 + size
        if how & LONG:
            payload *= 20
        if how & DEFLATED:
            payload = client.deflate(payload)
        mask = bytes(4) if how & MASKED_WITH_ZEROS else b"\x01\x80\xff\x55"
        fin, rsv = bool(first & 0x80), first >> 4 & 7
        frames.append(client_frame(first & 15, payload, fin=fin, rsv=rsv, mask=mask))
    return b"".join(frames)


def check_events(agreed: Agreed, wire: bytes, chunks: list[bytes]) -> list[tuple[t.Any, ...]]:
    """The same events as of the twin, chunk by chunk, and as of the whole in one."""
    protocol, twin = agreed.protocol(), agreed.twin()
    told = []
    for chunk in chunks:
        events = protocol.receive(chunk)
        told += twin.receive(chunk)
        assert twin.agrees(events), (events, twin.told)
        assert protocol.has_controls == any(not isinstance(e, (str, bytes)) for e in events)
    if twin.over:
        assert protocol.receive(client_frame(1, b"more")) == []
    whole, twin = agreed.protocol().receive(wire), agreed.twin()
    twin.receive(wire)
    assert twin.agrees(whole), (whole, twin.told)
    assert receive_bit_by_bit(agreed, wire) == whole
    return told


def receive_bit_by_bit(agreed: Agreed, wire: bytes) -> list[t.Any]:
    """The same, with room for one byte of compressed messages at a time."""
    protocol = agreed.protocol()
    events = protocol.receive(wire, 1)
    while protocol.has_more:
        events += protocol.receive(b"", 1)
    return events


def check_replies(agreed: Agreed, told: list[tuple[t.Any, ...]]) -> None:
    """What came in goes out, and a client reads the same."""
    protocol = agreed.protocol()
    client = ZlibClient(server_bits=agreed.bits, takeover=agreed.takeover)
    for kind, *content in told:
        if kind in ("text", "binary"):
            message = content[0]
            data = message.encode() if kind == "text" else message
            opcode = 1 if kind == "text" else 2
            rsv, found, payload = read_server_frame(protocol.encode_message(message))
            assert rsv == (4 if agreed.deflates and data else 0)
            assert (found, client.inflate(payload) if rsv else payload) == (opcode, data)
            assert read_server_frame(protocol.encode_plain(message)) == (0, opcode, data)
        elif kind == "ping":
            assert read_server_frame(protocol.encode_pong(content[0])) == (0, 10, content[0])
        elif kind == "close":
            code, reason = content
            sent = b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()
            assert read_server_frame(protocol.encode_close(code, reason)) == (0, 8, sent)


def check_memory(agreed: Agreed, chunks: list[bytes]) -> None:
    """Between two chunks no more is held than a message, a frame's header and the state."""
    most = max(map(len, chunks), default=0)
    protocol = agreed.protocol()
    # A bytearray that grows is an eighth larger than what is in it.
    held_at_most = agreed.limit * 9 // 8 + STATE[agreed.deflates]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for chunk in chunks:
            tracemalloc.reset_peak()
            events = protocol.receive(chunk)
            size = sum(sys.getsizeof(event) + 200 for event in events)
            del events
            held, peak = (value - before for value in tracemalloc.get_traced_memory())
            assert held <= held_at_most, (held, held_at_most)
            # Masks are applied to a whole piece at once, by integers as long as it; and what
            # Python makes for an exception.
            peak_at_most = held_at_most + 2 * size + 8 * (most + agreed.limit) + 16384
            assert peak <= peak_at_most, (peak, peak_at_most)
    finally:
        tracemalloc.stop()


def seeds() -> t.Iterator[bytes]:
    """Where a corpus begins: streams as a client has them, by every agreement."""
    text, long = client_frame(1, "Grüße".encode()), client_frame(2, bytes(range(200)))
    parts = client_frame(1, b"a\xe2", fin=False) + client_frame(0, b"\x82\xac")
    close = client_frame(8, b"\x03\xe8bye")
    deflated = client_frame(1, ZlibClient().deflate(b"Hello" * 30), rsv=4)
    wires = [text + long, parts + client_frame(9, b"p") + close, deflated * 2 + close]
    built = b"\x81\x00\x05Hello\xc1\x01\x03aaa\x02\x04\x02xy\x89\x00\x01p\x80\x02\x01z\x88\x00\x00"
    for flags in range(0, 64, 5):
        for wire in wires:
            yield bytes([flags & ~BUILT, 6, flags]) + wire
        yield bytes([flags | BUILT, 6, flags]) + built

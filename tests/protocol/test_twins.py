"""Properties: what the protocol makes of any bytes is what its slow twins make of them."""

from __future__ import annotations

import string
import typing as t
import zlib

from clients import client_frame
from clients import close_frame
from clients import fragments
from clients import header
from clients import ZlibClient
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from twins import slow_extensions
from twins import slow_is_key
from twins import slow_tokens
from twins import SlowInflater
from twins import SlowServer
from twins import TOKEN_CHARACTERS

from flask_websockets.protocol import Protocol
from flask_websockets.protocol.deflate import Agreement
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate
from flask_websockets.protocol.deflate import TooBig
from flask_websockets.protocol.handshake import is_valid_key
from flask_websockets.protocol.handshake import parse_extensions
from flask_websockets.protocol.handshake import split_tokens

RSV1 = 0b100
#: Of base64.
LETTERS = string.ascii_letters + string.digits + "+/"

quick = settings(deadline=None, max_examples=250)


class Stream(t.NamedTuple):
    """What a client sends, how it is cut, and what was agreed on."""

    chunks: list[bytes]
    limit: int
    deflates: bool
    takeover: bool
    bits: int


payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.integers(0, 300).map(bytes),
    # Text that ends too early, or in half a surrogate pair, or is too large a number.
    st.sampled_from([b"a\xc3", b"\xe2\x82", b"b\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"]),
)
masks = st.binary(min_size=4, max_size=4)


def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """*data* in pieces, some of them empty, or each byte by itself."""
    if len(data) < 200 and draw(st.integers(0, 3)) == 0:
        return [data[i : i + 1] for i in range(len(data))] or [b""]
    places = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Messages and frames that are right, wrong in every field, and no frames at all."""
    deflates, takeover = draw(st.booleans()), draw(st.booleans())
    bits = draw(st.integers(9, 15))
    client = ZlibClient(bits=bits, takeover=takeover)

    def message() -> bytes:
        payload, rsv = draw(payloads), 0
        if deflates and draw(st.booleans()):
            payload, rsv = client.deflate(payload), RSV1
        control = client_frame(draw(st.sampled_from([9, 10])), draw(st.binary(max_size=3)))
        between = draw(st.sampled_from([b"", control]))
        return fragments(draw(st.integers(1, 2)), cut(draw, payload), rsv=rsv, between=between)

    def frame() -> bytes:
        return client_frame(
            draw(st.sampled_from([0, 0, 1, 1, 2, 2, 3, 8, 9, 10, 11])),
            draw(payloads),
            fin=draw(st.booleans()),
            rsv=draw(st.sampled_from([0, 0, 0, RSV1, RSV1, 0b010, 0b001])),
            mask=draw(masks),
        )

    def claim() -> bytes:
        size = draw(st.sampled_from([0, 125, 126, 1000, 1001, 65535, 65536, 1 << 32, 1 << 63]))
        masked = draw(st.sampled_from([True, True, True, False]))
        return header(draw(st.integers(0, 10)), size, masked=masked)

    def close() -> bytes:
        code = draw(st.sampled_from([0, 999, 1000, 1004, 1005, 1011, 1015, 2999, 3000, 4999]))
        return close_frame(code, draw(st.sampled_from([b"", b"bye", b"\xff", b"\xc3"])))

    # What is wrong ends a stream: half of them have nothing of it.
    right: list[t.Callable[[], bytes]] = [message]
    anything = [message, message, frame, frame, claim, close, lambda: draw(st.binary(max_size=8))]
    kinds = draw(st.sampled_from([right, anything]))
    parts = [draw(st.sampled_from(kinds))() for _ in range(draw(st.integers(1, 8)))]
    limit = draw(st.sampled_from([1, 20, 126, 300, 1000, 1000]))
    return Stream(cut(draw, b"".join(parts)), limit, deflates, takeover, bits)


def deflated_zeros(size: int, first: bytes = b"") -> bytes:
    """One frame of a text message."""
    return client_frame(1, ZlibClient().deflate(first + bytes(size)), rsv=RSV1)


@quick
@given(streams())
# Too large once it is inflated, and not UTF-8 before: the first fault counts, however it is cut.
@example(Stream([deflated_zeros(500, b"\xff")], 20, True, True, 15))
@example(Stream([deflated_zeros(20, b"\xc3")], 20, True, True, 15))
@example(Stream([deflated_zeros(500)], 20, True, True, 15))
def test_any_stream_is_what_it_is_to_the_slow_twin(stream: Stream) -> None:
    deflate = inflater = None
    if stream.deflates:
        agreement = Agreement(False, not stream.takeover, 15, stream.bits)
        deflate = PerMessageDeflate(agreement, Options())
        inflater = SlowInflater(bits=stream.bits, takeover=stream.takeover)
    protocol, twin = Protocol(stream.limit, deflate), SlowServer(stream.limit, inflater)
    for chunk in stream.chunks:
        events = protocol.receive(chunk)
        told = twin.receive(chunk)
        assert twin.agrees(events), (events, told)
        assert protocol.has_controls == any(not isinstance(e, (str, bytes)) for e in events)


# Deflate


class Message(t.NamedTuple):
    """A message's payload as it arrives, and how much may come of it."""

    pieces: list[bytes]
    room: int


@st.composite
def deflated(draw: st.DrawFn) -> list[Message]:
    """Messages of a client that deflates well, badly, or not at all."""
    client, messages = ZlibClient(), []
    for _ in range(draw(st.integers(1, 4))):
        data = draw(payloads) * draw(st.sampled_from([1, 1, 2, 40]))
        payload = draw(st.sampled_from([client.deflate, final_block, bytes]))(data)
        damage = draw(st.none() | st.tuples(st.integers(0, 60), st.integers(0, 255)))
        if damage is not None and damage[0] < len(payload):
            place, byte = damage
            payload = payload[:place] + bytes([byte]) + payload[place + 1 :]
        room = draw(st.sampled_from([max(0, len(data) - 1), len(data), len(data) + 1, 100_000]))
        messages.append(Message(cut(draw, payload), room))
    return messages


def final_block(data: bytes) -> bytes:
    """A stream that ends, and what RFC 7692, section 7.2.3.4, has after it."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush() + b"\x00"


@quick
@given(deflated(), st.booleans(), st.integers(8, 15))
def test_any_deflate_is_what_it_is_to_the_slow_twin(
    messages: list[Message], takeover: bool, bits: int
) -> None:
    deflate = PerMessageDeflate(Agreement(False, not takeover, 15, bits), Options())
    twin = SlowInflater(bits=bits, takeover=takeover)

    for pieces, room in messages:
        expected = twin.outcomes(b"".join(pieces), room)
        found: bytes | str = b""
        try:
            for piece in pieces:
                found += deflate.inflate(piece, room - len(found))
                assert len(found) <= room
            found += deflate.finish(room - len(found))
        except TooBig as error:
            found = "too big" if len(found) + len(error.data) == room else "wrong size"
        except zlib.error:
            found = "not deflate"
        assert found in expected
        if isinstance(found, str):
            return  # the connection is over


@quick
@given(st.lists(payloads, max_size=5), st.booleans(), st.integers(9, 15), st.integers(0, 9))
def test_what_is_deflated_is_inflated_by_the_slow_twin(
    messages: list[bytes], takeover: bool, bits: int, level: int
) -> None:
    deflate = PerMessageDeflate(Agreement(not takeover, False, bits, 15), Options(level=level))
    twin = SlowInflater(bits=bits, takeover=takeover)
    for message in messages:
        sent = deflate.deflate(message) + b"\x00\x00\xff\xff"
        assert b"".join(out for byte in sent for out in twin.inflate(byte)) == message
        twin.end_message()


# Fields of the handshake

#: Mostly what has a meaning in a field.
odd = st.sampled_from('aB1-,,,;;;===""\\   \t\r\n\x00\x7f(é€')
blanks = st.text(" \t", max_size=2)
tokens = st.text(TOKEN_CHARACTERS, min_size=1, max_size=5)


@st.composite
def fields(draw: st.DrawFn) -> str:
    """A list of extensions, half of the time with something in it that is odd."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        parts += [draw(st.sampled_from(["", ", "])), draw(tokens), draw(blanks)]
        for _ in range(draw(st.integers(0, 2))):
            parts += [";", draw(blanks), draw(tokens), draw(blanks)]
            parts += draw(st.sampled_from([[], ["=", "1"], ["=", draw(blanks), '"1\\0"']]))
        parts += [",", draw(blanks)]
    if draw(st.booleans()):
        place = st.sampled_from([0, len(parts)]) | st.integers(0, len(parts))
        parts.insert(draw(place), draw(odd))
    return "".join(parts)


def read_or_none(read: t.Callable[[str], list[t.Any]], value: str) -> list[t.Any] | None:
    try:
        return read(value)
    except ValueError:
        return None


@quick
@given(fields() | st.text(odd, max_size=12))
@example("foo;a=1,bar;b=2")
@example('foo;a="1;b,2"')
@example("foo ; a = 1 , , bar")
@example("foo; a;")
def test_any_extensions_are_what_they_are_to_the_slow_twin(value: str) -> None:
    assert read_or_none(parse_extensions, value) == read_or_none(slow_extensions, value)


@quick
@given(fields() | st.lists(tokens | blanks | odd, max_size=12).map(",".join))
def test_any_tokens_are_what_they_are_to_the_slow_twin(value: str) -> None:
    assert read_or_none(split_tokens, value) == read_or_none(slow_tokens, value)


@quick
@given(st.text(LETTERS + "=-", min_size=21, max_size=23), st.sampled_from(["", "=", "==", "==="]))
@example("dGhlIHNhbXBsZSBub25jZQ", "==")
@example("dGhlIHNhbXBsZSBub25jZR", "==")
@example("dGhlIHNhbXBsZSBub25jZQ", "===")
@example("dGhlIHNhbXBsZSBub25jZQ", "=A")
@example("dGhlIHNhbXBsZSBub25jZQ", "é=")
def test_any_key_is_one_to_the_slow_twin_or_none(key: str, end: str) -> None:
    assert is_valid_key(key + end) == slow_is_key(key + end)

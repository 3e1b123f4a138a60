from __future__ import annotations

import random
import sys
import tracemalloc
import typing as t
import zlib

import pytest
from clients import BINARY
from clients import client_frame
from clients import CLOSE
from clients import close_frame
from clients import CONTINUATION
from clients import fragments
from clients import header
from clients import MASK
from clients import PING
from clients import PONG
from clients import random_cuts
from clients import random_text
from clients import read_server_frame
from clients import server_frame
from clients import TEXT
from clients import ZlibClient

from flask_websockets.protocol import Close
from flask_websockets.protocol import Event
from flask_websockets.protocol import Failure
from flask_websockets.protocol import Ping
from flask_websockets.protocol import Pong
from flask_websockets.protocol import Protocol
from flask_websockets.protocol.deflate import Agreement
from flask_websockets.protocol.deflate import negotiate
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate

if t.TYPE_CHECKING:
    from conftest import Receives

SIZES = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537]
LIMIT = 1 << 20
RSV1, RSV2, RSV3 = 0b100, 0b010, 0b001

NOT_MASKED = Failure(1002, "a client's frames must be masked")
RESERVED_BITS = Failure(1002, "reserved bits are set")
FRAGMENTED_CONTROL = Failure(1002, "a control frame is fragmented")
LONG_CONTROL = Failure(1002, "a control frame is over 125 bytes")
NOTHING_TO_CONTINUE = Failure(1002, "there is no message to continue")
NOT_FINISHED = Failure(1002, "the last message is not finished")
NOT_UTF8 = Failure(1007, "text is not UTF-8")
NOT_DEFLATE = Failure(1007, "the message is not deflate")


def too_big(limit: int) -> Failure:
    return Failure(1009, f"a message may have {limit} bytes at most")


def deflate(*, takeover: bool = True, bits: int = 15) -> PerMessageDeflate:
    """permessage-deflate as a handshake leaves it."""
    agreement = Agreement(not takeover, not takeover, bits, bits)
    return PerMessageDeflate(agreement, Options(window_bits=15))


def failing_byte(data: bytes, protocol: Protocol | None = None) -> tuple[int, list[Event]]:
    """Which byte of *data* is the first that anything comes of, and what comes of it."""
    protocol = protocol or Protocol(LIMIT)
    for index in range(len(data)):
        events = protocol.receive(data[index : index + 1])
        if events:
            return index, events
    pytest.fail("nothing came of it")


# Messages


@pytest.mark.parametrize("size", SIZES)
def test_a_text_message(receives: Receives, size: int) -> None:
    text = "é" * (size // 2) + "x" * (size % 2)
    assert len(text.encode()) == size
    receives(client_frame(TEXT, text.encode()), [text])


@pytest.mark.parametrize("size", SIZES)
def test_a_binary_message(receives: Receives, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    receives(client_frame(BINARY, payload), [payload])


@pytest.mark.parametrize("size", SIZES)
def test_a_message_sent(size: int) -> None:
    text = "x" * size
    protocol = Protocol(LIMIT)
    assert protocol.encode_message(text) == server_frame(TEXT, text.encode())
    assert protocol.encode_plain(text) == server_frame(TEXT, text.encode())
    payload = random.Random(size).randbytes(size)
    assert protocol.encode_message(payload) == server_frame(BINARY, payload)
    assert protocol.encode_plain(payload) == server_frame(BINARY, payload)
    shared = {None: b"what is shared"}
    assert protocol.encode_shared(payload, shared) is shared[None]


def test_text_is_sent_as_utf8() -> None:
    wire = b"\x81\x0aa\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"
    assert Protocol(LIMIT).encode_message("aé€\N{GRINNING FACE}") == wire


def test_half_a_surrogate_pair_is_not_sent() -> None:
    for protocol in (Protocol(LIMIT), Protocol(LIMIT, deflate())):
        with pytest.raises(UnicodeEncodeError):
            protocol.encode_message("\ud800")
        assert read_server_frame(protocol.encode_message("ok"))[1] == TEXT


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        # RFC 6455, section 5.7, masked where the RFC shows the server's side.
        (b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", ["Hello"]),
        (b"\x01\x83\x37\xfa\x21\x3d\x7f\x9f\x4d\x80\x82\x37\xfa\x21\x3d\x5b\x95", ["Hello"]),
        (b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", [Ping(b"Hello")]),
        (b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", [Pong(b"Hello")]),
        (b"\x82\x80\x37\xfa\x21\x3d", [b""]),
        (b"\x88\x80\x37\xfa\x21\x3d", [Close(1005, "")]),
    ],
)
def test_the_frames_of_the_rfc(receives: Receives, wire: bytes, events: list[Event]) -> None:
    receives(wire, events)


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x00\x01\x02\x03", b"\xff\x00\xff\x00"])
def test_any_mask_will_do(receives: Receives, mask: bytes) -> None:
    receives(
        client_frame(TEXT, b"Hello, World", mask=mask)
        + client_frame(BINARY, b"\x00\x01\x02", mask=mask)
        + client_frame(PING, b"ping", mask=mask),
        ["Hello, World", b"\x00\x01\x02", Ping(b"ping")],
    )


def test_messages_come_in_their_order(receives: Receives) -> None:
    receives(
        client_frame(TEXT, b"one")
        + client_frame(BINARY, b"two")
        + client_frame(TEXT)
        + client_frame(BINARY)
        + fragments(TEXT, [b"th", b"ree"])
        + client_frame(TEXT, b"four"),
        ["one", b"two", "", b"", "three", "four"],
    )


def test_nothing_comes_of_nothing(receives: Receives) -> None:
    receives(b"", [])


# Fragments


@pytest.mark.parametrize(
    "pieces",
    [
        [b"Hel", b"lo"],
        [b"H", b"e", b"l", b"l", b"o"],
        [b"", b"Hello"],
        [b"Hello", b""],
        [b"", b"", b"Hel", b"", b"lo", b"", b""],
        [b"", b""],
        [b"", b"", b""],
        [b"x" * 125, b"y" * 126, b"z" * 65535, b"", b"w" * 65536],
    ],
)
def test_fragments_are_joined(receives: Receives, pieces: list[bytes]) -> None:
    receives(
        fragments(TEXT, pieces) + fragments(BINARY, pieces),
        [b"".join(pieces).decode(), b"".join(pieces)],
    )


def test_control_frames_come_between_fragments(receives: Receives) -> None:
    between = client_frame(PING, b"i") + client_frame(PONG, b"o") + client_frame(PING)
    controls: list[Event] = [Ping(b"i"), Pong(b"o"), Ping(b"")]
    receives(
        fragments(TEXT, [b"", b"Hel", b"lo", b""], between=between) + client_frame(BINARY, b"next"),
        [*controls * 3, "Hello", b"next"],
    )


def test_a_close_between_fragments_ends_it(receives: Receives) -> None:
    receives(
        fragments(TEXT, [b"Hel", b"lo"], between=close_frame(1001, b"gone")),
        [Close(1001, "gone")],
    )


def test_65537_fragments_make_one_message() -> None:
    count = 65537
    pieces = [bytes([65 + index % 26]) for index in range(count)]
    wire = fragments(TEXT, pieces)
    assert Protocol(LIMIT).receive(wire) == [b"".join(pieces).decode()]
    protocol = Protocol(LIMIT)
    events = [protocol.receive(wire[start : start + 7]) for start in range(0, len(wire), 7)]
    assert events == [[]] * (count - 1) + [[b"".join(pieces).decode()]]


def test_65537_empty_fragments_make_an_empty_message() -> None:
    assert Protocol(LIMIT).receive(fragments(BINARY, [b""] * 65537)) == [b""]


# UTF-8

UNICODE = "aé€\N{GRINNING FACE}\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"


def test_utf8_may_be_cut_anywhere_between_frames() -> None:
    payload = UNICODE.encode()
    for cut in range(len(payload) + 1):
        wire = fragments(TEXT, [payload[:cut], payload[cut:]])
        assert Protocol(LIMIT).receive(wire) == [UNICODE]
        for other in range(cut, len(payload) + 1):
            wire = fragments(TEXT, [payload[:cut], payload[cut:other], payload[other:]])
            assert Protocol(LIMIT).receive(wire) == [UNICODE]


def test_utf8_may_be_cut_anywhere_within_a_frame() -> None:
    wire = client_frame(TEXT, UNICODE.encode())
    for cut in range(len(wire) + 1):
        protocol = Protocol(LIMIT)
        events = protocol.receive(wire[:cut]) + protocol.receive(wire[cut:])
        assert events == [UNICODE]


def test_utf8_goes_on_after_a_control_frame(receives: Receives) -> None:
    pieces = [bytes([byte]) for byte in UNICODE.encode()]
    receives(
        fragments(TEXT, pieces, between=client_frame(PING, b"\xff")),
        [Ping(b"\xff")] * (len(pieces) - 1) + [UNICODE],
    )


INVALID_UTF8 = [
    # What comes before is right; the byte at the index is the first that cannot be.
    pytest.param(b"\x80", 0, id="lone continuation"),
    pytest.param(b"ok\xbf", 2, id="lone continuation after text"),
    pytest.param(b"\xc3\xa9\xa9", 2, id="one continuation too many"),
    pytest.param(b"\xc0\x80", 0, id="overlong NUL"),
    pytest.param(b"\xc1\xbf", 0, id="overlong in two bytes"),
    pytest.param(b"\xe0\x80\x80", 1, id="overlong NUL in three bytes"),
    pytest.param(b"\xe0\x9f\xbf", 1, id="overlong in three bytes"),
    pytest.param(b"\xf0\x80\x80\x80", 1, id="overlong NUL in four bytes"),
    pytest.param(b"\xf0\x8f\xbf\xbf", 1, id="overlong in four bytes"),
    pytest.param(b"\xed\xa0\x80", 1, id="first high surrogate"),
    pytest.param(b"\xed\xaf\xbf", 1, id="last high surrogate"),
    pytest.param(b"\xed\xb0\x80", 1, id="first low surrogate"),
    pytest.param(b"\xed\xbf\xbf", 1, id="last low surrogate"),
    pytest.param(b"ok \xed\xa0\xbd\xed\xb8\x80", 4, id="a pair of surrogates"),
    pytest.param(b"\xf4\x90\x80\x80", 1, id="above U+10FFFF"),
    pytest.param(b"\xf5\x80\x80\x80", 0, id="F5"),
    pytest.param(b"\xf8\x88\x80\x80\x80", 0, id="five bytes"),
    pytest.param(b"\xfe", 0, id="FE"),
    pytest.param(b"\xff", 0, id="FF"),
    pytest.param(b"\xc3(", 1, id="cut after one of two"),
    pytest.param(b"\xe2\x82(", 2, id="cut after two of three"),
    pytest.param(b"\xe2(", 1, id="cut after one of three"),
    pytest.param(b"\xf0\x9f\x98(", 3, id="cut after three of four"),
    pytest.param(b"\xf0\x9f\xff", 2, id="cut after two of four"),
    pytest.param("κόσμε".encode() + b"\xf4\x90\x80\x80", 11, id="above U+10FFFF after text"),
]


@pytest.mark.parametrize(("payload", "index"), INVALID_UTF8)
def test_invalid_utf8_fails(receives: Receives, payload: bytes, index: int) -> None:
    receives(client_frame(TEXT, b"good") + client_frame(TEXT, payload), ["good", NOT_UTF8])
    receives(fragments(TEXT, [b"", payload, b"more"]), [NOT_UTF8])


@pytest.mark.parametrize(("payload", "index"), INVALID_UTF8)
def test_invalid_utf8_fails_at_its_first_byte(payload: bytes, index: int) -> None:
    # Each frame has more to come, so only the byte itself can be what fails.
    start = len(header(TEXT, len(payload) + 9)) + 4
    wire = client_frame(TEXT, payload + b" and more")
    assert failing_byte(wire) == (start + index, [NOT_UTF8])


@pytest.mark.parametrize(("payload", "index"), INVALID_UTF8)
def test_invalid_utf8_fails_at_its_first_byte_in_fragments(payload: bytes, index: int) -> None:
    wire = b"".join(
        client_frame(CONTINUATION if place else TEXT, payload[place : place + 1], fin=False)
        for place in range(len(payload))
    )
    assert failing_byte(wire) == (index * 7 + 6, [NOT_UTF8])


@pytest.mark.parametrize(("payload", "index"), INVALID_UTF8)
def test_invalid_utf8_fails_in_the_chunk_that_brings_it(payload: bytes, index: int) -> None:
    wire = client_frame(TEXT, payload + b" and more")
    cut = 6 + index + 1
    protocol = Protocol(LIMIT)
    assert protocol.receive(wire[: cut - 1]) == []
    assert protocol.receive(wire[cut - 1 : cut]) == [NOT_UTF8]
    assert Protocol(LIMIT).receive(wire[:cut]) == [NOT_UTF8]


@pytest.mark.parametrize(
    "payload",
    [b"\xc3", b"\xe2", b"\xe2\x82", b"\xed", b"\xed\x9f", b"\xf0", b"\xf0\x9f\x98", b"\xf4\x8f"],
)
def test_utf8_that_is_cut_at_the_end_fails_there(receives: Receives, payload: bytes) -> None:
    receives(client_frame(TEXT, payload), [NOT_UTF8])
    receives(fragments(TEXT, [b"a", payload, b""]), [NOT_UTF8])
    wire = client_frame(TEXT, b"text " + payload)
    assert failing_byte(wire) == (len(wire) - 1, [NOT_UTF8])
    # An unfinished message may still be completed: only the last frame tells.
    wire = fragments(TEXT, [payload, b""])
    assert failing_byte(wire) == (len(wire) - 1, [NOT_UTF8])


def test_binary_is_not_checked(receives: Receives) -> None:
    payload = b"\xff\xc0\x80\xed\xa0\x80"
    receives(client_frame(BINARY, payload) + fragments(BINARY, [payload, b""]), [payload] * 2)


def test_the_utf8_of_one_message_does_not_go_on_in_the_next(receives: Receives) -> None:
    receives(
        fragments(TEXT, [b"\xc3", b"\xa9"])
        + client_frame(BINARY, b"\xc3")
        + client_frame(TEXT, b"\xa9"),
        ["é", b"\xc3", NOT_UTF8],
    )


# What a header may not say


@pytest.mark.parametrize(
    ("wire", "failure"),
    [
        *[
            (client_frame(opcode, rsv=rsv), RESERVED_BITS)
            for opcode in (TEXT, BINARY, CLOSE, PING, PONG, 3, 11)
            for rsv in (RSV2, RSV3, RSV2 | RSV3, RSV1 | RSV2 | RSV3)
        ],
        *[(client_frame(opcode, rsv=RSV1), RESERVED_BITS) for opcode in (1, 2, 8, 9, 10)],
        *[
            (client_frame(opcode), Failure(1002, f"opcode {opcode} is reserved"))
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ],
        *[(server_frame(opcode), NOT_MASKED) for opcode in (TEXT, BINARY, CLOSE, PING, PONG)],
        (server_frame(TEXT, b"Hello"), NOT_MASKED),
        *[(client_frame(opcode, fin=False), FRAGMENTED_CONTROL) for opcode in (CLOSE, PING, PONG)],
        *[
            (client_frame(opcode, bytes(size)), LONG_CONTROL)
            for opcode in (CLOSE, PING, PONG)
            for size in (126, 65536)
        ],
        (client_frame(CONTINUATION), NOTHING_TO_CONTINUE),
        (client_frame(CONTINUATION, b"more"), NOTHING_TO_CONTINUE),
        (client_frame(CONTINUATION, b"more", fin=False), NOTHING_TO_CONTINUE),
    ],
)
def test_a_header_that_may_not_be(receives: Receives, wire: bytes, failure: Failure) -> None:
    receives(wire, [failure])
    receives(client_frame(TEXT, b"good") + wire, ["good", failure])
    # The header's first two bytes tell; no more is waited for.
    assert failing_byte(wire) == (1, [failure])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_may_not_begin_within_another(receives: Receives, opcode: int) -> None:
    for first in (TEXT, BINARY):
        for start in (b"", b"unfinished"):
            wire = client_frame(first, start, fin=False)
            receives(wire + client_frame(opcode, b"new"), [NOT_FINISHED])
            receives(
                wire + client_frame(PING) + client_frame(opcode, b"new", fin=False),
                [Ping(b""), NOT_FINISHED],
            )


def test_nothing_is_continued_after_a_messages_end(receives: Receives) -> None:
    receives(
        fragments(TEXT, [b"Hel", b"lo"]) + client_frame(CONTINUATION, b"!"),
        ["Hello", NOTHING_TO_CONTINUE],
    )
    receives(
        client_frame(TEXT, b"Hello") + client_frame(CONTINUATION), ["Hello", NOTHING_TO_CONTINUE]
    )


@pytest.mark.parametrize("size", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_length_with_its_first_bit_set(receives: Receives, opcode: int, size: int) -> None:
    failure = Failure(1002, "the length's first bit is set")
    wire = header(opcode, size) + MASK
    receives(wire, [failure])
    assert failing_byte(wire) == (9, [failure])


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY])
def test_a_continuation_or_a_plain_connection_may_not_have_rsv1(
    receives: Receives, opcode: int, fin: bool
) -> None:
    before = client_frame(TEXT, b"a", fin=False) if opcode == CONTINUATION else b""
    receives(before + client_frame(opcode, b"b", fin=fin, rsv=RSV1), [RESERVED_BITS])


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("first", [0, RSV1])
def test_a_continuation_may_not_have_rsv1_with_deflate(
    receives: Receives, first: int, fin: bool
) -> None:
    payload = ZlibClient().deflate(b"Hello")
    wire = client_frame(TEXT, payload[:2] if first else b"He", fin=False, rsv=first)
    wire += client_frame(CONTINUATION, payload[2:] if first else b"llo", fin=fin, rsv=RSV1)
    receives(wire, [RESERVED_BITS], deflate=deflate())


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_may_not_have_rsv1_with_deflate(receives: Receives, opcode: int) -> None:
    receives(client_frame(opcode, rsv=RSV1), [RESERVED_BITS], deflate=deflate())


@pytest.mark.parametrize("rsv", [RSV2, RSV3, RSV1 | RSV2, RSV1 | RSV3])
def test_other_reserved_bits_may_not_be_set_with_deflate(receives: Receives, rsv: int) -> None:
    receives(client_frame(TEXT, rsv=rsv), [RESERVED_BITS], deflate=deflate())


# Control frames


@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_pings_and_pongs(receives: Receives, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    receives(
        client_frame(PING, payload) + client_frame(PONG, payload), [Ping(payload), Pong(payload)]
    )
    assert Protocol.encode_ping(payload) == server_frame(PING, payload)
    assert Protocol.encode_pong(payload) == server_frame(PONG, payload)


GOOD_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", GOOD_CODES)
def test_a_close(receives: Receives, code: int) -> None:
    receives(close_frame(code), [Close(code, "")])
    receives(close_frame(code, "tschüß".encode()), [Close(code, "tschüß")])
    assert Protocol.encode_close(code) == server_frame(CLOSE, code.to_bytes(2, "big"))
    assert Protocol.encode_close(code, "tschüß") == server_frame(
        CLOSE, code.to_bytes(2, "big") + "tschüß".encode()
    )


@pytest.mark.parametrize("code", BAD_CODES)
def test_a_close_with_a_code_that_may_not_be_sent(receives: Receives, code: int) -> None:
    failure = Failure(1002, f"close code {code} is not allowed")
    receives(close_frame(code), [failure])
    receives(close_frame(code, b"why"), [failure])
    if code != 1005:
        with pytest.raises(ValueError, match=rf"^Close code {code} may not be sent\."):
            Protocol.encode_close(code)


def test_a_close_without_a_code(receives: Receives) -> None:
    receives(client_frame(CLOSE), [Close(1005, "")])
    assert Protocol.encode_close(1005) == b"\x88\x00"


@pytest.mark.parametrize("payload", [b"\x00", b"\x03", b"\xff"])
def test_a_close_of_one_byte(receives: Receives, payload: bytes) -> None:
    receives(
        client_frame(CLOSE, payload),
        [Failure(1002, "a Close payload of one byte is not allowed")],
    )


@pytest.mark.parametrize("reason", [b"\xff", b"cut \xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_close_whose_reason_is_not_utf8(receives: Receives, reason: bytes) -> None:
    receives(close_frame(1000, reason), [Failure(1007, "the close reason is not UTF-8")])


def test_a_close_reason_of_123_bytes_and_of_124(receives: Receives) -> None:
    receives(close_frame(1000, b"r" * 123), [Close(1000, "r" * 123)])
    receives(close_frame(1000, b"r" * 124), [LONG_CONTROL])
    assert Protocol.encode_close(1000, "r" * 123) == b"\x88\x7d\x03\xe8" + b"r" * 123
    with pytest.raises(ValueError, match=r"^The close reason is 124 bytes long in UTF-8\."):
        Protocol.encode_close(1000, "r" * 124)


# The order of events, and the end of them


@pytest.mark.parametrize(
    ("wire", "last"),
    [
        (close_frame(1000, b"bye"), Close(1000, "bye")),
        (client_frame(TEXT, b"\xff"), NOT_UTF8),
        (client_frame(PING, rsv=RSV2), RESERVED_BITS),
        (header(BINARY, LIMIT + 1), too_big(LIMIT)),
    ],
)
def test_events_before_the_end_come_first_and_none_after_it(
    receives: Receives, wire: bytes, last: Event
) -> None:
    good = client_frame(TEXT, b"one") + client_frame(PING, b"two") + client_frame(BINARY, b"three")
    protocol = receives(good + wire, ["one", Ping(b"two"), b"three", last])
    # Whatever follows, right or wrong, in this chunk or a later one.
    receives(good + wire + good, ["one", Ping(b"two"), b"three", last])
    for data in (good, wire, server_frame(TEXT, b"?"), close_frame(1000), b"\xff" * 100, b""):
        assert protocol.receive(data) == []


def test_a_connection_that_is_over_can_still_send(receives: Receives) -> None:
    protocol = receives(close_frame(1000), [Close(1000, "")])
    assert protocol.encode_close(1000) == b"\x88\x02\x03\xe8"


# The size limit


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1, 125, 126, 1000, 65535, 65536])
def test_the_limit_of_a_frame(receives: Receives, limit: int, opcode: int) -> None:
    message = "x" * limit if opcode == TEXT else b"x" * limit
    receives(client_frame(opcode, b"x" * limit) * 2, [message] * 2, limit=limit)
    receives(client_frame(opcode, b"x" * (limit + 1)), [too_big(limit)], limit=limit)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_limit_of_fragments(receives: Receives, opcode: int) -> None:
    message = "x" * 1000 if opcode == TEXT else b"x" * 1000
    for pieces in ([999, 1], [0, 1000], [1000, 0], [500, 0, 500], [1] * 1000):
        wire = fragments(opcode, [b"x" * piece for piece in pieces])
        receives(wire * 2, [message] * 2, limit=1000)
    for pieces in ([1000, 1], [1, 1000], [500, 501], [1000, 0, 1], [1] * 1001):
        wire = fragments(opcode, [b"x" * piece for piece in pieces], between=client_frame(PING))
        pings: list[Event] = [Ping(b"")] * (len(pieces) - 1)
        receives(wire, [*pings, too_big(1000)], limit=1000)


def test_what_is_too_big_is_refused_by_its_header() -> None:
    wire = client_frame(BINARY, bytes(1001))
    assert failing_byte(wire, Protocol(1000)) == (3, [too_big(1000)])
    wire = client_frame(BINARY, bytes(100_000))
    assert failing_byte(wire, Protocol(99_999)) == (9, [too_big(99_999)])
    wire = fragments(TEXT, [b"x" * 999, b"yz"])
    assert failing_byte(wire, Protocol(1000)) == (8 + 999 + 1, [too_big(1000)])


@pytest.mark.parametrize("rsv", [0, RSV1])
@pytest.mark.parametrize("size", [1 << 32, 1 << 62, (1 << 63) - 1])
def test_a_claim_of_exbibytes_is_refused(receives: Receives, size: int, rsv: int) -> None:
    wire = header(BINARY, size, rsv=rsv) + MASK
    receives(wire, [too_big(LIMIT)], deflate=deflate() if rsv else None)


def test_the_limit_does_not_add_up_over_messages(receives: Receives) -> None:
    receives(
        fragments(BINARY, [b"x" * 600, b"y" * 400], between=client_frame(PING, b"z" * 125)) * 3,
        [Ping(b"z" * 125), b"x" * 600 + b"y" * 400] * 3,
        limit=1000,
    )


@pytest.mark.parametrize("byte", [b"\x00", b"x"])
def test_the_limit_holds_for_what_is_inflated(receives: Receives, byte: bytes) -> None:
    client = ZlibClient()
    wire = b"".join(client_frame(BINARY, client.deflate(byte * 5000), rsv=RSV1) for _ in range(3))
    receives(wire, [byte * 5000] * 3, limit=5000, deflate=deflate())
    payload = ZlibClient().deflate(byte * 5001)
    pieces = [payload[index : index + 1] for index in range(len(payload))]
    for wire in (
        client_frame(BINARY, payload, rsv=RSV1),
        fragments(BINARY, pieces, rsv=RSV1),
    ):
        receives(wire, [too_big(5000)], limit=5000, deflate=deflate())


def test_a_message_that_deflate_makes_larger_may_fill_the_limit(receives: Receives) -> None:
    message = random.Random(7692).randbytes(5000)
    payload = ZlibClient().deflate(message)
    assert len(payload) > 5000
    receives(client_frame(BINARY, payload, rsv=RSV1), [message], limit=5000, deflate=deflate())


def test_a_message_of_empty_blocks_does_not_go_on_for_ever() -> None:
    protocol = Protocol(1000, deflate())
    block = b"\x00\x00\x00\xff\xff" * 100
    wire = fragments(BINARY, [block] * 100, rsv=RSV1)
    assert protocol.receive(wire) == [too_big(1000)]


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """256 MiB of zeros in less than 300 KB: 1 MiB that refers to nothing, 256 times."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    mebibyte = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    payload = mebibyte * 256
    assert len(payload) < 300_000
    inflater = zlib.decompressobj(-15)
    assert sum(len(inflater.decompress(mebibyte)) for _ in range(256)) == 256 << 20
    return payload[:-4]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("shape", ["one frame", "one frame in chunks", "fragments"])
def test_a_bomb_is_not_inflated(bomb: bytes, shape: str, opcode: int) -> None:
    if shape == "fragments":
        pieces = [bomb[start : start + 1000] for start in range(0, len(bomb), 1000)]
        wire = fragments(opcode, pieces, rsv=RSV1)
    else:
        wire = client_frame(opcode, bomb, rsv=RSV1)
    step = 4096 if "chunks" in shape else len(wire)
    chunks = [wire[start : start + step] for start in range(0, len(wire), step)]
    protocol = Protocol(LIMIT, deflate())
    tracemalloc.start()
    try:
        events = [event for chunk in chunks for event in protocol.receive(chunk)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert events == [too_big(LIMIT)]
    assert peak < 8 << 20


@pytest.mark.parametrize("shape", ["whole", "fragments", "empty end"])
def test_compressed_messages_wait_where_there_is_no_room(shape: str) -> None:
    client = ZlibClient()
    wire = b""
    for _ in range(5):
        payload = client.deflate(bytes(1000))
        if shape == "whole":
            wire += client_frame(BINARY, payload, rsv=RSV1)
        elif shape == "fragments":
            wire += fragments(BINARY, [payload[:2], payload[2:]], rsv=RSV1)
        else:
            wire += fragments(BINARY, [payload, b""], rsv=RSV1)
    protocol = Protocol(LIMIT, deflate())
    assert protocol.receive(wire + close_frame(1000, b""), 1001) == [bytes(1000)] * 2
    assert protocol.has_more
    assert protocol.receive(b"", 2000) == [bytes(1000)] * 2
    assert protocol.has_more
    # With one more byte of the peer's, and all the room.
    assert protocol.receive(b"x") == [bytes(1000), Close(1000, "")]
    assert not protocol.has_more


def test_plain_messages_need_no_room() -> None:
    protocol = Protocol(LIMIT, deflate())
    wire = client_frame(BINARY, bytes(1000)) + fragments(BINARY, [b"a", b"b"])
    assert protocol.receive(wire, 1) == [bytes(1000), b"ab"]
    assert not protocol.has_more


# Compressed messages


@pytest.mark.parametrize(
    "payload",
    [
        b"\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\x00\x05\x00\xfa\xffHello\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",  # a block with BFINAL
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ],
)
def test_the_compressed_messages_of_the_rfc(receives: Receives, payload: bytes) -> None:
    # RFC 7692, section 7.2.3; after each, the state is right for another.
    wire = client_frame(TEXT, payload, rsv=RSV1)
    wire += fragments(TEXT, [payload[:3], payload[3:]], rsv=RSV1, between=client_frame(PING))
    receives(wire, ["Hello", Ping(b""), "Hello"], deflate=deflate())


def test_a_window_shared_between_messages_as_in_the_rfc(receives: Receives) -> None:
    receives(
        client_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=RSV1)
        + client_frame(TEXT, b"\xf2\x00\x11\x00\x00", rsv=RSV1),
        ["Hello", "Hello"],
        deflate=deflate(),
    )


def test_a_compressed_message_is_sent_as_in_the_rfc() -> None:
    protocol = Protocol(LIMIT, deflate())
    assert protocol.encode_message("Hello") == b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"
    assert protocol.encode_message("Hello") == b"\xc1\x05\xf2\x00\x11\x00\x00"
    assert protocol.encode_plain("Hello") == b"\x81\x05Hello"
    # What depends on the messages before is not shared.
    shared = {None: protocol.encode_plain("Hello")}
    assert protocol.encode_shared("Hello", shared) == b"\xc1\x04\x02\x13\x00\x00"
    assert list(shared) == [None]


def test_a_message_without_context_takeover_is_compressed_once() -> None:
    def protocol(**values: t.Any) -> Protocol:
        options = Options(context_takeover=False, **values)
        agreed = negotiate([("permessage-deflate", [])], options)
        assert agreed is not None
        return Protocol(1 << 20, PerMessageDeflate(agreed[0], options))

    one, two, other = protocol(), protocol(), protocol(window_bits=9)
    shared = {None: one.encode_plain("Hello")}
    frame = one.encode_shared("Hello", shared)
    assert frame == b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"
    assert two.encode_shared("Hello", shared) is frame
    assert other.encode_shared("Hello", shared) is not frame
    assert len(shared) == 3
    assert one.encode_shared("", {None: one.encode_plain("")}) == b"\x81\x00"


def test_empty_messages_with_deflate(receives: Receives) -> None:
    receives(
        client_frame(TEXT, b"\x00", rsv=RSV1)
        + client_frame(BINARY, b"\x00", rsv=RSV1)
        + fragments(TEXT, [b"", b"\x00", b""], rsv=RSV1)
        + client_frame(TEXT)
        + client_frame(BINARY),
        ["", b"", "", "", b""],
        deflate=deflate(),
    )
    protocol = Protocol(LIMIT, deflate())
    assert protocol.encode_message("") == b"\x81\x00"
    assert protocol.encode_message(b"") == b"\x82\x00"


def test_with_deflate_a_message_may_come_as_it_is(receives: Receives) -> None:
    client = ZlibClient()
    receives(
        client_frame(TEXT, client.deflate(b"one"), rsv=RSV1)
        + client_frame(TEXT, b"two")
        + fragments(BINARY, [b"th", b"ree"])
        + client_frame(TEXT, client.deflate(b"one, four"), rsv=RSV1),
        ["one", "two", b"three", "one, four"],
        deflate=deflate(),
    )


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("size", [1, 124, 125, 126, 127, 65534, 65535, 65536, 65537])
def test_compressed_messages_both_ways(size: int, bits: int, takeover: bool) -> None:
    client = ZlibClient(bits=bits, server_bits=bits, takeover=takeover)
    protocol = Protocol(LIMIT, deflate(bits=bits, takeover=takeover))
    payload = random.Random(size).randbytes(size)
    text = ("Grüße, \N{SNOWMAN}! " * (size // 8 + 1))[:size]
    messages: tuple[str | bytes, ...] = (text, payload, payload + payload, text, payload)
    for message in messages:
        data = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        assert protocol.receive(client_frame(opcode, client.deflate(data), rsv=RSV1)) == [message]
        rsv, sent_opcode, sent = read_server_frame(protocol.encode_message(message))
        assert (rsv, sent_opcode) == (RSV1, opcode)
        assert client.inflate(sent) == data


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xff\xff\xff", b"\x07", b"\x00\x05\x00\x00\x00Hello", b"\xf2\x00\x11\x00\x00"],
)
def test_what_is_not_deflate_fails(receives: Receives, payload: bytes) -> None:
    good = client_frame(TEXT, ZlibClient(takeover=False).deflate(b"good"), rsv=RSV1)
    receives(
        good + client_frame(BINARY, payload, rsv=RSV1),
        ["good", NOT_DEFLATE],
        deflate=deflate(takeover=False),
    )
    receives(fragments(TEXT, [payload, b"", b""], rsv=RSV1), [NOT_DEFLATE], deflate=deflate())


def test_a_client_that_keeps_a_context_it_gave_up_fails(receives: Receives) -> None:
    message = random.Random(8).randbytes(500)
    client = ZlibClient()
    receives(
        client_frame(BINARY, client.deflate(message), rsv=RSV1)
        + client_frame(BINARY, client.deflate(message), rsv=RSV1),
        [message, NOT_DEFLATE],
        deflate=deflate(takeover=False),
    )


@pytest.mark.parametrize(("payload", "index"), INVALID_UTF8)
def test_invalid_utf8_fails_when_it_is_inflated(
    receives: Receives, payload: bytes, index: int
) -> None:
    deflated = ZlibClient().deflate(payload)
    receives(client_frame(TEXT, deflated, rsv=RSV1), [NOT_UTF8], deflate=deflate())
    receives(client_frame(BINARY, deflated, rsv=RSV1), [payload], deflate=deflate())


def test_inflated_utf8_that_is_cut_at_the_end_fails(receives: Receives) -> None:
    for payload in (b"\xc3", b"\xe2\x82", b"text \xf0\x9f\x98"):
        deflated = ZlibClient().deflate(payload)
        receives(client_frame(TEXT, deflated, rsv=RSV1), [NOT_UTF8], deflate=deflate())


@pytest.mark.parametrize("limit", [1 << 31, 1 << 40, sys.maxsize - 1, sys.maxsize, 1 << 64])
def test_a_limit_may_be_as_large_as_one_likes(receives: Receives, limit: int) -> None:
    # From sys.maxsize up, zlib is asked for more bytes than Py_ssize_t can say.
    wire = client_frame(TEXT, ZlibClient().deflate(b"Hello"), rsv=RSV1) + client_frame(TEXT, b"x")
    receives(wire, ["Hello", "x"], limit=limit, deflate=deflate())


@pytest.mark.timeout(10)  # a bound for what hangs, not a measurement
def test_a_message_of_nothing_but_final_blocks_is_read_in_linear_time() -> None:
    # After each block with BFINAL zlib copies all that follows it.
    payload = b"\x03\x00" * LIMIT
    mask = bytes(4)
    wire = header(BINARY, len(payload), rsv=RSV1) + mask + payload
    assert Protocol(LIMIT, deflate()).receive(wire) == [b""]


# Chance


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("seed", range(25))
def test_random_messages_cut_anywhere(seed: int, compressed: bool) -> None:
    chance = random.Random(seed)
    takeover = chance.random() < 0.5
    client = ZlibClient(takeover=takeover)
    wire = bytearray()
    expected: list[Event] = []
    for _ in range(chance.randint(1, 30)):
        size = chance.choice((0, 1, 5, 125, 126, 127, chance.randint(0, 3000)))
        message = random_text(chance, size) if chance.random() < 0.5 else chance.randbytes(size)
        opcode, payload = (
            (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        )
        rsv = 0
        if compressed and chance.random() < 0.8:
            rsv, payload = RSV1, client.deflate(payload)
        pieces = random_cuts(chance, payload, chance.choice((1, 1, 1, 2, 5)))
        for index, piece in enumerate(pieces):
            if chance.random() < 0.3:
                control, event = chance.choice(((PING, Ping), (PONG, Pong)))
                note = chance.randbytes(chance.choice((0, 1, 125)))
                wire += client_frame(control, note, mask=chance.randbytes(4))
                expected.append(event(note))
            wire += client_frame(
                CONTINUATION if index else opcode,
                piece,
                fin=index == len(pieces) - 1,
                rsv=0 if index else rsv,
                mask=chance.randbytes(4),
            )
        expected.append(message)
    wire += close_frame(4000, b"done")
    expected.append(Close(4000, "done"))
    for count in (1, 2, len(expected), len(wire) // 3):
        agreed = deflate(takeover=takeover) if compressed else None
        protocol = Protocol(LIMIT, agreed)
        received: list[Event] = []
        for chunk in random_cuts(chance, bytes(wire), count):
            received += protocol.receive(chunk)
        assert received == expected
        assert [type(event) for event in received] == [type(event) for event in expected]


def told(event: Event) -> tuple[type, object]:
    """An event without a failure's sentence: of two faults in a frame either may be named."""
    return type(event), event.code if isinstance(event, Failure) else event


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_come_out_the_same_however_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        wire = bytearray()
        for _ in range(6):
            opcode = chance.choice((CONTINUATION, TEXT, BINARY, PING, PONG))
            payload = random_text(chance, chance.choice((0, 2, 30))).encode()
            rsv = chance.choice((0, 0, 0, RSV1))
            wire += client_frame(opcode, payload, fin=chance.random() < 0.8, rsv=rsv)
        for _ in range(chance.randint(0, 3)):
            wire[chance.randrange(len(wire))] = chance.randrange(256)
        agreed = chance.random() < 0.5
        whole = Protocol(500, deflate() if agreed else None).receive(bytes(wire))
        for count in (2, 10, len(wire)):
            protocol = Protocol(500, deflate() if agreed else None)
            events: list[Event] = []
            for chunk in random_cuts(chance, bytes(wire), count):
                events += protocol.receive(chunk)
            assert [told(event) for event in events] == [told(event) for event in whole]

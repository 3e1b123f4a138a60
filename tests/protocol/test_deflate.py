from __future__ import annotations

import random
import typing as t
import zlib

import pytest
from clients import ZlibClient

from flask_websockets.protocol.deflate import Agreement
from flask_websockets.protocol.deflate import negotiate
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate
from flask_websockets.protocol.deflate import TooBig
from flask_websockets.protocol.handshake import parse_extensions

ROOM = 1 << 20
WIDE = Options(window_bits=15)
NARROW = Options(window_bits=10)
FORGETFUL = Options(window_bits=15, context_takeover=False)
PLAIN = Agreement(False, False, 15, 15)


def read(deflate: PerMessageDeflate, payload: bytes, room: int = ROOM) -> bytes:
    """A whole message's payload, inflated."""
    message = deflate.inflate(payload, room)
    return message + deflate.finish(room - len(message))


# Negotiation


SN, CN = "; server_no_context_takeover", "; client_no_context_takeover"
SB, CB = "; server_max_window_bits", "; client_max_window_bits"


@pytest.mark.parametrize(
    ("options", "offer", "answer", "agreement"),
    [
        # What is offered is what is answered, where our side asks for nothing more.
        (WIDE, "", "", PLAIN),
        (WIDE, SN, SN, (True, False, 15, 15)),
        (WIDE, CN, CN, (False, True, 15, 15)),
        (WIDE, SB + "=9", SB + "=9", (False, False, 9, 15)),
        (WIDE, SB + "=10", SB + "=10", (False, False, 10, 15)),
        (WIDE, SB + "=15", SB + "=15", PLAIN),
        (WIDE, SB + '="10"', SB + "=10", (False, False, 10, 15)),
        (WIDE, CB, CB + "=15", PLAIN),
        (WIDE, CB + "=15", CB + "=15", PLAIN),
        (WIDE, CB + "=9", CB + "=9", (False, False, 15, 9)),
        (WIDE, CB + "=8", CB + "=8", (False, False, 15, 8)),
        (WIDE, SN + CN, SN + CN, (True, True, 15, 15)),
        (WIDE, CN + SN, SN + CN, (True, True, 15, 15)),
        # A smaller window of ours: the server's may be told unasked, the client's
        # only to a client that offered (RFC 7692, section 7.1.2.2).
        (NARROW, "", SB + "=10", (False, False, 10, 15)),
        (NARROW, SB + "=15", SB + "=10", (False, False, 10, 15)),
        (NARROW, SB + "=9", SB + "=9", (False, False, 9, 15)),
        (NARROW, CB, SB + "=10" + CB + "=10", (False, False, 10, 10)),
        (NARROW, CB + "=15", SB + "=10" + CB + "=10", (False, False, 10, 10)),
        (NARROW, CB + "=9", SB + "=10" + CB + "=9", (False, False, 10, 9)),
        # No context takeover of ours is for both sides.
        (FORGETFUL, "", SN + CN, (True, True, 15, 15)),
        (FORGETFUL, SN, SN + CN, (True, True, 15, 15)),
        (FORGETFUL, CN, SN + CN, (True, True, 15, 15)),
        (FORGETFUL, CB, SN + CN + CB + "=15", (True, True, 15, 15)),
        (Options(), "", SB + "=12", (False, False, 12, 15)),
        (Options(), CB, SB + "=12" + CB + "=12", (False, False, 12, 12)),
    ],
)
def test_an_offer_is_answered_with(
    options: Options, offer: str, answer: str, agreement: tuple[bool, bool, int, int]
) -> None:
    assert negotiate(parse_extensions("permessage-deflate" + offer), options) == (
        Agreement(*agreement),
        "permessage-deflate" + answer,
    )


def test_an_answer_names_its_parameters_in_one_order() -> None:
    offer = (
        "permessage-deflate; client_max_window_bits=11; server_max_window_bits=12; "
        "client_no_context_takeover; server_no_context_takeover"
    )
    assert negotiate(parse_extensions(offer), WIDE) == (
        Agreement(True, True, 12, 11),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=12; client_max_window_bits=11",
    )


@pytest.mark.parametrize("options", [WIDE, NARROW, FORGETFUL])
@pytest.mark.parametrize(
    "parameters",
    [
        "server_no_context_takeover=true",
        "server_no_context_takeover=1",
        "client_no_context_takeover=false",
        "client_no_context_takeover=0",
        "server_max_window_bits",
        "server_max_window_bits=8",  # zlib has no raw deflate with that window
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=0",
        "server_max_window_bits=-10",
        "server_max_window_bits=+10",
        "server_max_window_bits=010",
        "server_max_window_bits=10.0",
        "server_max_window_bits=0xa",
        "server_max_window_bits=1_0",
        "server_max_window_bits=ten",
        "server_max_window_bits=99999999999999999999",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=0",
        "client_max_window_bits=-10",
        "client_max_window_bits=+10",
        "client_max_window_bits=010",
        "client_max_window_bits=ten",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=10; server_max_window_bits=10",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits; client_max_window_bits=10",
        "unknown",
        "client_max_window_bits; unknown=1",
        "SERVER_NO_CONTEXT_TAKEOVER",
    ],
)
def test_an_offer_that_cannot_be_met_is_declined(parameters: str, options: Options) -> None:
    offer = parse_extensions(f"permessage-deflate; {parameters}")
    assert negotiate(offer, options) is None


@pytest.mark.parametrize(
    "offers", ["", "foo", "x-webkit-deflate-frame", "permessage-bzip2; client_max_window_bits"]
)
def test_other_extensions_are_declined(offers: str) -> None:
    assert negotiate(parse_extensions(offers), WIDE) is None


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("foo, permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate",
        ),
        (
            "permessage-deflate; unknown, permessage-deflate; client_max_window_bits=99, "
            "permessage-deflate; server_no_context_takeover, permessage-deflate",
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            "permessage-deflate, permessage-deflate; server_max_window_bits=10",
            "permessage-deflate",
        ),
    ],
)
def test_the_first_offer_that_can_be_met_is_taken(offers: str, answer: str) -> None:
    taken = negotiate(parse_extensions(offers), WIDE)
    assert taken is not None
    assert taken[1] == answer


# Messages


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", range(9, 16))
def test_messages_to_a_real_zlib_within_its_window(bits: int, takeover: bool) -> None:
    agreement = Agreement(not takeover, not takeover, bits, bits)
    deflate = PerMessageDeflate(agreement, WIDE)
    client = ZlibClient(bits=bits, server_bits=bits, takeover=takeover)
    chance = random.Random(bits)
    block = chance.randbytes(20_000)
    # The block again, farther back than any but the largest window reaches.
    for message in (b"first", block, block + block, b"", b"last", b"last"):
        assert client.inflate(deflate.deflate(message)) == message


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", range(9, 16))
def test_messages_of_a_real_zlib(bits: int, takeover: bool) -> None:
    agreement = Agreement(not takeover, not takeover, bits, bits)
    deflate = PerMessageDeflate(agreement, WIDE)
    client = ZlibClient(bits=bits, server_bits=bits, takeover=takeover)
    block = random.Random(bits).randbytes(20_000)
    for message in (b"first", block, block + block, b"", b"last", b"last"):
        assert read(deflate, client.deflate(message)) == message


def test_a_client_window_of_8_bits_is_read() -> None:
    deflate = PerMessageDeflate(Agreement(False, False, 15, 8), WIDE)
    client = ZlibClient(bits=9)
    message = bytes(range(256))
    assert read(deflate, client.deflate(message[:200])) == message[:200]
    assert read(deflate, client.deflate(message[100:])) == message[100:]


@pytest.mark.parametrize("options", [WIDE, Options(level=0), Options(level=9), Options(level=1)])
@pytest.mark.parametrize("memory_level", [1, 5, 9])
def test_every_level_is_read_by_a_real_zlib(options: Options, memory_level: int) -> None:
    options = options._replace(memory_level=memory_level)
    deflate = PerMessageDeflate(PLAIN, options)
    client = ZlibClient()
    for message in (b"Hello", bytes(100_000), random.Random(1).randbytes(70_000)):
        assert client.inflate(deflate.deflate(message)) == message


def test_with_takeover_a_message_refers_to_the_last() -> None:
    deflate = PerMessageDeflate(PLAIN, WIDE)
    message = random.Random(2).randbytes(1000)
    first, second = deflate.deflate(message), deflate.deflate(message)
    assert len(first) > 1000
    assert len(second) < 30


def test_without_takeover_a_message_refers_to_nothing() -> None:
    deflate = PerMessageDeflate(Agreement(True, False, 15, 15), WIDE)
    message = random.Random(2).randbytes(1000)
    assert deflate.deflate(message) == deflate.deflate(message)


def test_one_side_may_keep_its_context_without_the_other() -> None:
    message = random.Random(3).randbytes(1000)
    deflate = PerMessageDeflate(Agreement(True, False, 15, 15), WIDE)
    client = ZlibClient()
    assert read(deflate, client.deflate(message)) == message
    assert read(deflate, client.deflate(message)) == message
    deflate = PerMessageDeflate(Agreement(False, True, 15, 15), WIDE)
    assert len(deflate.deflate(message)) > len(deflate.deflate(message))


def test_a_reference_that_the_agreement_forbids_is_an_error() -> None:
    message = random.Random(4).randbytes(4000)
    for agreement in (Agreement(False, True, 15, 15), Agreement(False, False, 15, 9)):
        deflate = PerMessageDeflate(agreement, WIDE)
        client = ZlibClient()
        assert read(deflate, client.deflate(message)) == message
        with pytest.raises(zlib.error):
            read(deflate, client.deflate(message))


def test_a_message_has_no_flush_mark_at_its_end() -> None:
    # RFC 7692, section 7.2.3.1: "Hello" in one block of fixed codes.
    assert PerMessageDeflate(PLAIN, WIDE).deflate(b"Hello") == b"\xf2\x48\xcd\xc9\xc9\x07\x00"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        # RFC 7692, sections 7.2.3.1 to 7.2.3.6.
        (b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
        (b"\x00\x05\x00\xfa\xffHello\x00", b"Hello"),
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
        (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
        (b"\x00", b""),
        # More after a block with BFINAL, and one that is empty.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00" * 3 + b"\x00", b"Hello" * 3),
        (b"\x03\x00\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
        (b"\x03\x00\x00", b""),
        (b"\x02\x00", b""),
    ],
)
def test_the_payloads_of_the_rfc(payload: bytes, message: bytes) -> None:
    deflate = PerMessageDeflate(PLAIN, WIDE)
    assert read(deflate, payload) == message
    # The state is one that reads the next message, too.
    assert read(deflate, b"\xf2\x48\xcd\xc9\xc9\x07\x00") == b"Hello"
    bytewise = b"".join(deflate.inflate(payload[i : i + 1], ROOM) for i in range(len(payload)))
    assert bytewise + deflate.finish(ROOM - len(bytewise)) == message


def test_a_window_shared_between_messages_as_in_the_rfc() -> None:
    # RFC 7692, section 7.2.3.2.
    deflate = PerMessageDeflate(PLAIN, WIDE)
    assert read(deflate, b"\xf2\x48\xcd\xc9\xc9\x07\x00") == b"Hello"
    assert read(deflate, b"\xf2\x00\x11\x00\x00") == b"Hello"


def test_a_message_of_several_final_blocks_is_read() -> None:
    deflate = PerMessageDeflate(PLAIN, WIDE)
    payload = b"\xf3\x48\xcd\xc9\xc9\x07\x00" * 16 + b"\x00"
    assert read(deflate, payload) == b"Hello" * 16


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff\xff",
        b"\x07",  # a block of the reserved type
        b"\x00\x05\x00\x00\x00Hello",  # a stored block whose lengths disagree
        b"\xf2\x00\x11\x00\x00",  # refers to before the start
        b"Hello, I am plain text and no deflate",
    ],
)
def test_what_is_not_deflate_is_an_error(payload: bytes) -> None:
    with pytest.raises(zlib.error):
        read(PerMessageDeflate(PLAIN, WIDE), payload)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_what_fills_the_room_is_read_and_one_byte_more_is_not(size: int) -> None:
    payload = ZlibClient().deflate(bytes(size))
    assert read(PerMessageDeflate(PLAIN, WIDE), payload, size) == bytes(size)
    if size:
        with pytest.raises(TooBig):
            read(PerMessageDeflate(PLAIN, WIDE), payload, size - 1)


def test_final_blocks_do_not_make_more_room() -> None:
    payload = b"\xf3\x48\xcd\xc9\xc9\x07\x00" * 3 + b"\x00"
    assert read(PerMessageDeflate(PLAIN, WIDE), payload, 15) == b"Hello" * 3
    with pytest.raises(TooBig):
        read(PerMessageDeflate(PLAIN, WIDE), payload, 14)


@pytest.mark.parametrize("seed", range(10))
def test_random_messages_both_ways(seed: int) -> None:
    chance = random.Random(seed)
    takeover, bits = chance.random() < 0.5, chance.randint(9, 15)
    deflate = PerMessageDeflate(Agreement(not takeover, not takeover, bits, bits), WIDE)
    client = ZlibClient(bits=bits, server_bits=bits, takeover=takeover)
    messages: list[bytes] = [b""]
    for _ in range(30):
        choices: tuple[t.Callable[[], bytes], ...] = (
            lambda: chance.choice(messages),
            lambda: chance.choice(messages) * 3,
            lambda: chance.randbytes(chance.randint(0, 3000)),
            lambda: bytes(chance.randint(0, 3000)),
        )
        messages.append(chance.choice(choices)()[:10_000])
        assert client.inflate(deflate.deflate(messages[-1])) == messages[-1]
        assert read(deflate, client.deflate(messages[-1])) == messages[-1]

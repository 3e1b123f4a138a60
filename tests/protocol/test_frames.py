from __future__ import annotations

import random

import pytest
from clients import BINARY
from clients import CLOSE
from clients import CONTINUATION
from clients import mask_slowly
from clients import PING
from clients import PONG
from clients import server_frame
from clients import TEXT

from flask_websockets.protocol import frames
from flask_websockets.protocol.frames import apply_mask
from flask_websockets.protocol.frames import encode_frame

SIZES = [0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537]


def test_opcodes_and_bits_are_those_of_the_rfc() -> None:
    names = ("CONTINUATION", "TEXT", "BINARY", "CLOSE", "PING", "PONG", "FIN", "RSV1")
    assert [getattr(frames, name) for name in names] == [0, 1, 2, 8, 9, 10, 0x80, 0x40]
    assert (frames.RSV2_AND_3, frames.MASKED, frames.MAX_CONTROL_SIZE) == (0x30, 0x80, 125)


@pytest.mark.parametrize(
    ("opcode", "payload", "wire"),
    [
        # RFC 6455, section 5.7.
        (TEXT, b"Hello", b"\x81\x05Hello"),
        (PING, b"Hello", b"\x89\x05Hello"),
        (BINARY, bytes(256), b"\x82\x7e\x01\x00" + bytes(256)),
        (BINARY, bytes(65536), b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(65536)),
        # Each form of the length at its edges (section 5.2).
        (TEXT, b"", b"\x81\x00"),
        (TEXT, b"x" * 125, b"\x81\x7d" + b"x" * 125),
        (TEXT, b"x" * 126, b"\x81\x7e\x00\x7e" + b"x" * 126),
        (BINARY, bytes(65535), b"\x82\x7e\xff\xff" + bytes(65535)),
        (CLOSE, b"\x03\xe8", b"\x88\x02\x03\xe8"),
        (PONG, b"", b"\x8a\x00"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value),
)
def test_a_frame_is_these_bytes(opcode: int, payload: bytes, wire: bytes) -> None:
    assert encode_frame(opcode, payload) == wire


def test_a_compressed_frame_has_rsv1() -> None:
    # RFC 7692, section 7.2.3.1.
    payload = b"\xf2\x48\xcd\xc9\xc9\x07\x00"
    assert encode_frame(TEXT, payload, compressed=True) == b"\xc1\x07" + payload


@pytest.mark.parametrize("size", SIZES)
def test_frames_are_those_of_the_slow_twin(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    for opcode in (CONTINUATION, TEXT, BINARY):
        assert encode_frame(opcode, payload) == server_frame(opcode, payload)
        assert encode_frame(opcode, payload, compressed=True) == server_frame(
            opcode, payload, rsv=0b100
        )
    if size <= 125:
        for opcode in (CLOSE, PING, PONG):
            assert encode_frame(opcode, payload) == server_frame(opcode, payload)


def test_random_frames_are_those_of_the_slow_twin() -> None:
    chance = random.Random(6455)
    for _ in range(300):
        opcode = chance.choice((TEXT, BINARY))
        payload = chance.randbytes(int(chance.expovariate(1 / 3000)))
        assert encode_frame(opcode, payload) == server_frame(opcode, payload)


def test_a_mask_is_that_of_the_rfc() -> None:
    # RFC 6455, section 5.7: "a single-frame masked text message".
    assert apply_mask(b"Hello", b"\x37\xfa\x21\x3d", 0, 5) == b"\x7f\x9f\x4d\x51\x58"
    assert apply_mask(b"\x7f\x9f\x4d\x51\x58", b"\x37\xfa\x21\x3d", 0, 5) == b"Hello"


@pytest.mark.parametrize("mask", [b"\x37\xfa\x21\x3d", bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01"])
def test_masks_of_every_length_are_those_of_the_slow_twin(mask: bytes) -> None:
    chance = random.Random(mask)
    for size in range(131):
        for data in (chance.randbytes(size), bytes(size), b"\xff" * size):
            assert apply_mask(data, mask, 0, size) == mask_slowly(data, mask)


def test_a_mask_goes_on_at_every_offset() -> None:
    chance = random.Random(53)
    mask = chance.randbytes(4)
    for size in range(131):
        data = chance.randbytes(size)
        masked = mask_slowly(data, mask)
        for offset in range(min(size, 8) + 1):
            turned = (mask + mask)[offset % 4 : offset % 4 + 4]
            assert apply_mask(data, turned, offset, size) == masked[offset:]


@pytest.mark.parametrize("size", SIZES)
def test_masking_twice_gives_the_data_back(size: int) -> None:
    chance = random.Random(size)
    data, mask = chance.randbytes(size), chance.randbytes(4)
    masked = apply_mask(data, mask, 0, size)
    assert masked == mask_slowly(data, mask)
    assert apply_mask(masked, mask, 0, size) == data


def test_masks_give_bytes() -> None:
    assert type(apply_mask(b"", b"\x01\x02\x03\x04", 0, 0)) is bytes
    assert type(apply_mask(b"data", b"\x01\x02\x03\x04", 0, 4)) is bytes

from __future__ import annotations

import pytest

from flask_websockets.protocol.close import Close
from flask_websockets.protocol.close import CloseCode
from flask_websockets.protocol.close import decode_close
from flask_websockets.protocol.close import encode_close
from flask_websockets.protocol.close import is_sendable

SENDABLE = [
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
    *(3000, 3999, 4000, 4999),
]
UNSENDABLE = [0, 1, 999, 1004, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535]


def test_codes_have_their_registered_numbers() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL_CLOSURE": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS_RECEIVED": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_PAYLOAD": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "TLS_HANDSHAKE": 1015,
    }


def test_the_sendable_codes_are_these_and_no_others() -> None:
    sendable = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 70000) if is_sendable(code)} == sendable


@pytest.mark.parametrize("code", SENDABLE)
def test_a_sendable_code_travels_in_two_bytes(code: int) -> None:
    payload = bytes([code >> 8, code & 0xFF])
    assert encode_close(code) == payload
    assert decode_close(payload) == Close(code, "")
    assert encode_close(code, "bye \N{WAVING HAND SIGN}") == payload + b"bye \xf0\x9f\x91\x8b"
    assert decode_close(payload + b"bye \xf0\x9f\x91\x8b") == Close(
        code, "bye \N{WAVING HAND SIGN}"
    )


@pytest.mark.parametrize("code", [*UNSENDABLE, -1, 65536])
def test_a_code_that_may_not_be_sent_is_refused_with_those_that_may(code: int) -> None:
    with pytest.raises(ValueError) as refused:
        encode_close(code)
    assert str(refused.value) == (
        f"Close code {code} may not be sent. Use 1000 to 1003, 1007 to 1014, "
        "or 3000 to 4999 for codes of your own."
    )


@pytest.mark.parametrize("code", [*UNSENDABLE, 1005])
def test_a_code_that_may_not_be_sent_is_not_read(code: int) -> None:
    with pytest.raises(ValueError, match=f"^close code {code}$"):
        decode_close(bytes([code >> 8, code & 0xFF]))


def test_1005_is_a_close_without_a_code_both_ways() -> None:
    assert encode_close(1005) == b""
    assert decode_close(b"") == Close(1005, "")


def test_1005_takes_no_reason() -> None:
    with pytest.raises(ValueError, match=r"^Close code 1005 may not be sent\."):
        encode_close(1005, "why")


@pytest.mark.parametrize("reason", ["r" * 123, "é" * 61 + "r"])
def test_a_reason_of_123_bytes_fits(reason: str) -> None:
    payload = encode_close(1000, reason)
    assert payload == b"\x03\xe8" + reason.encode()
    assert len(payload) == 125
    assert decode_close(payload) == Close(1000, reason)


@pytest.mark.parametrize("reason", ["r" * 124, "é" * 62])
def test_a_reason_of_124_bytes_is_refused(reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        encode_close(1000, reason)
    assert str(refused.value) == (
        "The close reason is 124 bytes long in UTF-8. At most 123 fit in a Close frame."
    )


def test_half_a_surrogate_pair_in_a_reason_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_close(1000, "\ud800")


@pytest.mark.parametrize("byte", [b"\x00", b"\x03", b"\xff"])
def test_a_payload_of_one_byte_is_not_read(byte: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a Close payload of one byte$"):
        decode_close(byte)


@pytest.mark.parametrize("reason", [b"\xff", b"ok \xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_reason_that_is_not_utf8_is_not_read(reason: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_close(b"\x03\xe8" + reason)

from __future__ import annotations

import base64
import contextlib
import random
import re
import typing as t

import pytest

from flask_websockets.protocol import handshake
from flask_websockets.protocol.handshake import accept_key
from flask_websockets.protocol.handshake import has_token
from flask_websockets.protocol.handshake import is_valid_key
from flask_websockets.protocol.handshake import normalize_origin
from flask_websockets.protocol.handshake import parse_extensions
from flask_websockets.protocol.handshake import split_tokens

LONG = 1 << 16
TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


CLIENT_BITS = ("client_max_window_bits", None)


# Sec-WebSocket-Key and Sec-WebSocket-Accept


def test_a_key_is_accepted_as_in_the_rfc() -> None:
    # RFC 6455, section 1.3.
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "nonce", [bytes(16), b"\xff" * 16, b"the sample nonce", b"\xfb\xef\xbe" * 5 + b"\xfb"]
)
def test_the_base64_of_16_bytes_is_a_key(nonce: bytes) -> None:
    assert is_valid_key(base64.b64encode(nonce).decode())


@pytest.mark.parametrize(
    "key",
    [
        "",
        "=" * 24,
        base64.b64encode(bytes(15)).decode(),
        base64.b64encode(bytes(17)).decode(),
        base64.b64encode(bytes(18)).decode(),
        "dGhlIHNhbXBsZSBub25jZQ",  # no padding
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        " dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ== ",
        "dGhlIHNhbXBsZSBub25j Q==",
        "dGhlIHNhbXBsZSBub25j\nQ==",
        "dGhlIHNhbXBsZSBub25j-_==",  # the alphabet for URLs
        "dGhlIHNhbXBsZSBub25j\xe9Q==",
        "dGhlIHNhbXBsZSBub25j\N{SNOWMAN}Q==",
        "dGhlIHNhb==XBsZSBub25jZQ",
        "A" * LONG,
    ],
)
def test_anything_else_is_no_key(key: str) -> None:
    assert not is_valid_key(key)


# Lists of tokens


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("", []),
        ("chat", ["chat"]),
        ("chat, superchat", ["chat", "superchat"]),
        ("chat,superchat", ["chat", "superchat"]),
        (" \tchat\t ,\t superchat \t", ["chat", "superchat"]),
        (",, chat , ,superchat,", ["chat", "superchat"]),
        (" , ", []),
        ("b, a, b", ["b", "a", "b"]),
        ("Chat, chat", ["Chat", "chat"]),
        (TOKEN_CHARACTERS, [TOKEN_CHARACTERS]),
        ("v10.stomp, v11.stomp", ["v10.stomp", "v11.stomp"]),
    ],
)
def test_a_list_of_tokens(value: str, tokens: list[str]) -> None:
    assert split_tokens(value) == tokens


@pytest.mark.parametrize("character", ' \t\n\r"(),/:;<=>?@[\\]{}\x00\x1f\x7f\x80\xe9')
def test_a_token_has_no_separators_controls_or_foreign_letters(character: str) -> None:
    if character == ",":
        assert split_tokens("a,b") == ["a", "b"]
        return
    with pytest.raises(ValueError) as refused:
        split_tokens(f"chat, a{character}b")
    item = f"a{character}b"
    assert str(refused.value) == f"{item!r} is not a token"


def test_a_long_item_is_named_by_its_start() -> None:
    with pytest.raises(ValueError) as refused:
        split_tokens("(" * LONG)
    assert str(refused.value) == f"{'(' * 40!r} is not a token"


# Upgrade and Connection


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("websocket", True),
        ("WebSocket", True),
        (" websocket\t", True),
        ("h2c,websocket", True),
        ("websocket, h2c", True),
        (",, websocket ,", True),
        ("websocket, websocket", True),
        ("", False),
        ("websocketx", False),
        ("xwebsocket", False),
        ("web socket", False),
        ("websocket h2c", False),
        ("websocket/13", False),
        ("websocket;q=1", False),
        ('"websocket"', False),
        ("\xa0websocket", False),
        ("websocket\x00", False),
        ("," * LONG, False),
    ],
)
def test_a_token_is_found_whole(value: str, found: bool) -> None:
    assert has_token(value, "websocket") is found


# Origin


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("http://example.org", "http://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("https://example.org:80", "https://example.org:80"),
        ("http://example.org:8000", "http://example.org:8000"),
        ("http://example.org:08000", "http://example.org:8000"),
        ("http://example.org:1", "http://example.org:1"),
        ("http://example.org:65535", "http://example.org:65535"),
        ("ws://example.org:80", "http://example.org"),
        ("wss://example.org:443", "https://example.org"),
        ("wss://example.org", "https://example.org"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://[0:0::0001]", "http://[::1]"),
        ("https://[2001:DB8::A]:443", "https://[2001:db8::a]"),
        ("http://my_backend", "http://my_backend"),
        ("http://localhost.", "http://localhost."),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("null", "null"),
        ("file://", "file://"),
    ],
)
def test_an_origin_is_written_in_one_way(value: str, normal: str) -> None:
    assert normalize_origin(value) == normal
    assert normalize_origin(normal) == normal


@pytest.mark.parametrize(
    "value",
    [
        "",
        "*",
        "example.org",
        "//example.org",
        "http:",
        "http://",
        "http:///",
        "http://example.org/",
        "http://example.org/path",
        "http://example.org?query",
        "http://example.org#part",
        "http://*.example.org",
        "http://ada@example.org",
        "http://example.org:",
        "http://example.org:0",
        "http://example.org:65536",
        "http://example.org:-1",
        "http://example.org:8o",
        "http://example.org:\N{ARABIC-INDIC DIGIT EIGHT}",
        "http://example.org:80:80",
        "http://example.org,http://example.org",
        "http://example.org, http://example.org",
        "http://example.org http://example.org",
        " http://example.org",
        "http://example.org ",
        "http://example.org\n",
        "http://example.org\x00",
        "http://exam\x00ple.org",
        "http://b\xfccher.example",
        "\N{KELVIN SIGN}://example.org",
        "1http://example.org",
        "http://::1",
        "http://[::1",
        "http://[::1]]",
        "http://[]",
        "http://[1.2.3.4]",
        "http://[::g]",
        "http://[::1%25eth0]",
        "http://" + "a" * 256,
        "NULL",
        "null, null",
        "file:///home",
        "http" * LONG,
        "http://" + "a." * LONG,
        "http://[" + ":" * LONG + "]",
    ],
    ids=lambda value: repr(value[:50]),
)
def test_anything_else_is_no_origin(value: str) -> None:
    with pytest.raises(ValueError):
        normalize_origin(value)


# Sec-WebSocket-Extensions


@pytest.mark.parametrize(
    ("value", "extensions"),
    [
        ("", []),
        (" ", []),
        (",", []),
        (" , ,\t,", []),
        ("foo", [("foo", [])]),
        (" foo ", [("foo", [])]),
        ("foo,bar", [("foo", []), ("bar", [])]),
        (",foo,,bar,", [("foo", []), ("bar", [])]),
        ("foo, foo", [("foo", []), ("foo", [])]),
        ("foo;a", [("foo", [("a", None)])]),
        ("foo; a; b", [("foo", [("a", None), ("b", None)])]),
        ("foo; a=1; a=2", [("foo", [("a", "1"), ("a", "2")])]),
        ("foo;a=1,bar;b=2", [("foo", [("a", "1")]), ("bar", [("b", "2")])]),
        ("\tfoo\t;\ta\t=\t1\t,\tbar\t", [("foo", [("a", "1")]), ("bar", [])]),
        ('foo; a="1"', [("foo", [("a", "1")])]),
        ('foo; a = "1" ; b', [("foo", [("a", "1"), ("b", None)])]),
        (r'foo; a="\1\0"', [("foo", [("a", "10")])]),
        (
            f"{TOKEN_CHARACTERS}; {TOKEN_CHARACTERS}={TOKEN_CHARACTERS}",
            [(TOKEN_CHARACTERS, [(TOKEN_CHARACTERS, TOKEN_CHARACTERS)])],
        ),
        # RFC 6455, section 9.1.
        ("deflate-stream", [("deflate-stream", [])]),
        (
            "mux; max-channels=4; flow-control, deflate-stream",
            [("mux", [("max-channels", "4"), ("flow-control", None)]), ("deflate-stream", [])],
        ),
        ("private-extension", [("private-extension", [])]),
        # RFC 7692, section 7.1.3, and what browsers send.
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
            [("permessage-deflate", [CLIENT_BITS, ("server_max_window_bits", "10")])],
        ),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
            "permessage-deflate; client_max_window_bits",
            [
                ("permessage-deflate", [CLIENT_BITS, ("server_max_window_bits", "10")]),
                ("permessage-deflate", [CLIENT_BITS]),
            ],
        ),
    ],
)
def test_extensions(value: str, extensions: list[t.Any]) -> None:
    assert parse_extensions(value) == extensions


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (";", "a name is missing before ';'"),
        ("; a", "a name is missing before '; a'"),
        ("foo;", "it ends in a semicolon"),
        ("foo; a;", "it ends in a semicolon"),
        ("foo, bar;", "it ends in a semicolon"),
        ("foo; ", "a name is missing before ' '"),
        ("foo;;a", "a name is missing before ';a'"),
        ("foo; , bar", "a name is missing before ' , bar'"),
        ("foo, ; a", "a name is missing before ' ; a'"),
        ("=1", "a name is missing before '=1'"),
        ("foo; =1", "a name is missing before ' =1'"),
        ("foo=1", "'foo' is an extension's name and takes no value"),
        ("a, foo=1; b", "'foo' is an extension's name and takes no value"),
        ("foo; a=", "' a=' is not an extension"),
        ("foo; a==1", "' a==1' is not an extension"),
        ("foo; a=1=2", "' a=1=2' is not an extension"),
        ("foo; a=1 2", "' a=1 2' is not an extension"),
        ("foo bar", "'foo bar' is not an extension"),
        ("foo; a b", "' a b' is not an extension"),
        ("foo; (a)", "' (a)' is not an extension"),
        ("foo/1", "'foo/1' is not an extension"),
        ('"foo"', "'\"foo\"' is not an extension"),
        ('foo; a="1', "' a=\"1' is not an extension"),
        ('foo; a="1\\"', "' a=\"1\\\\\"' is not an extension"),
        ('foo; a="1"2', "' a=\"1\"2' is not an extension"),
        ('foo; a=""', "'' is not a token"),
        ('foo; a="1 2"', "'1 2' is not a token"),
        ('foo; a="1,2"', "'1,2' is not a token"),
        (r'foo; a="\""', "'\\\\\"' is not a token"),
        ("f\xe9e", "'f\xe9e' is not an extension"),
        ("foo\nbar", r"'foo\nbar' is not an extension"),
        ("foo\x00", r"'foo\x00' is not an extension"),
    ],
)
def test_malformed_extensions_are_refused_by_name(value: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_extensions(value)
    assert str(refused.value) == message


@pytest.mark.parametrize("value", ["," * LONG, " " * LONG, "\t" * LONG, ", " * (LONG // 2)])
def test_64_kib_of_nothing_but_separators_is_an_empty_list(value: str) -> None:
    assert parse_extensions(value) == []
    assert split_tokens(value) == []


class CountedItem:
    """Stands in for the pattern of one item, and notes what it reads."""

    def __init__(self) -> None:
        self._pattern = handshake._ITEM
        self.matches: list[tuple[int, int]] = []

    def match(self, value: str, position: int) -> re.Match[str] | None:
        match = self._pattern.match(value, position)
        self.matches.append((position, len(value) if match is None else match.end()))
        return match


@pytest.mark.parametrize("size", [1000, 10_000, 100_000])
@pytest.mark.parametrize("piece", [",", ", ", "foo,", "foo;a=1,", "foo; a;b;c,", "foo; a;;"])
def test_an_extension_is_read_once(monkeypatch: pytest.MonkeyPatch, piece: str, size: int) -> None:
    counted = CountedItem()
    monkeypatch.setattr(handshake, "_ITEM", counted)
    value = piece * (size // len(piece))
    with contextlib.suppress(ValueError):
        parse_extensions(value)
    # Each match begins where the last one ended: what is read is as long as the value.
    ends = [0, *(end for _, end in counted.matches)]
    assert [begin for begin, _ in counted.matches] == ends[:-1]
    assert sum(end - begin for begin, end in counted.matches) <= len(value)


@pytest.mark.timeout(10)  # a bound for what hangs, not a measurement
@pytest.mark.parametrize(
    ("value", "start"),
    [
        # Two runs of blanks side by side in _ITEM would be split in every way there is.
        ("foo;" + " " * LONG + "(", " " * 40),
        ("foo; a" + " " * LONG + "(", " a" + " " * 38),
        ("foo; a=" + " " * LONG + "(", " a=" + " " * 37),
        ("foo; a=1" + " " * LONG + "(", " a=1" + " " * 36),
        ("foo; a" + " " * LONG + "=" + " " * LONG + "(", " a" + " " * 38),
        ("foo; " + "a" * LONG + "(", " " + "a" * 39),
        ("foo; a=" + "1" * LONG + "(", " a=" + "1" * 37),
        ('foo; a="' + "1" * LONG, ' a="' + "1" * 36),
        ('foo; a="' + "\\1" * LONG, ' a="' + "\\1" * 18),
        ("=" * LONG, "=" * 40),
    ],
    ids=lambda value: repr(value[:10]),
)
def test_a_long_malformed_value_is_refused_in_linear_time(value: str, start: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_extensions(value)
    assert str(refused.value) == f"{start!r} is not an extension"


def test_long_values_of_many_items_are_read_in_linear_time() -> None:
    assert parse_extensions("foo" + ";a" * LONG) == [("foo", [("a", None)] * LONG)]
    assert parse_extensions("foo;a=1," * LONG) == [("foo", [("a", "1")])] * LONG
    assert split_tokens("foo," * LONG) == ["foo"] * LONG


def test_random_lists_are_read_as_they_were_built() -> None:
    chance = random.Random(9110)

    def token() -> str:
        return "".join(chance.choices(TOKEN_CHARACTERS, k=chance.randint(1, 8)))

    def blank() -> str:
        return "".join(chance.choices(" \t", k=chance.randint(0, 3)))

    for _ in range(300):
        extensions: list[t.Any] = []
        text = []
        for _ in range(chance.randint(0, 5)):
            extensions.append((token(), []))
            text.append(chance.choice(("", ",")) + blank() + extensions[-1][0] + blank())
            for _ in range(chance.randint(0, 3)):
                parameter, value = token(), chance.choice((None, token()))
                extensions[-1][1].append((parameter, value))
                text[-1] += ";" + blank() + parameter + blank()
                if value is not None:
                    quote = chance.choice(("", '"'))
                    text[-1] += "=" + blank() + quote + value + quote + blank()
        assert parse_extensions(",".join(text)) == extensions

"""A server's side of RFC 6455 and RFC 7692, slow and obviously right.

Twins of ``flask_websockets.protocol``, written from the RFCs a byte and a character at a
time. They share no line with it. What they say is compared with what it says, by the
properties beside this file and by the fuzzers in ``fuzz/``.
"""

from __future__ import annotations

import copy
import typing as t
import zlib

from clients import BINARY
from clients import CLOSE
from clients import CONTINUATION
from clients import PING
from clients import PONG
from clients import TEXT

#: What comes of a client's bytes: ("text", str), ("binary", bytes), ("ping", bytes),
#: ("pong", bytes), ("close", code, reason) or ("failure", code).
Told = tuple[t.Any, ...]


def tell(event: t.Any) -> Told:
    """An event of the package, without a failure's sentence."""
    kind = type(event).__name__.lower()
    if kind in ("str", "bytes"):
        return {"str": "text", "bytes": "binary"}[kind], event
    return ("failure", event.code) if kind == "failure" else (kind, *event)


class Broken(Exception):
    """The client broke a rule, and the connection is closed with a code."""

    def __init__(self, code: int, *, inflating: bool = False) -> None:
        self.code = code
        self.inflating = inflating


class SlowServer:
    """Reads frames, each byte when it comes.

    :param limit: the largest message in bytes.
    :param inflater: inflates messages, where that was agreed on.
    """

    def __init__(self, limit: int, inflater: SlowInflater | None = None) -> None:
        self.limit = limit
        self.inflater = inflater
        self.told: list[Told] = []
        self.over = False
        self.inflating = False
        self.reading = self._read_frames()
        next(self.reading)

    def receive(self, data: bytes) -> list[Told]:
        """What *data* completes."""
        self.told = []
        for byte in data:
            if self.over:
                break
            try:
                self.reading.send(byte)
            except Broken as broken:
                self.told.append(("failure", broken.code))
                self.inflating = broken.inflating
                self.over = True
            except StopIteration:
                self.over = True
        return self.told

    def agrees(self, events: t.Sequence[t.Any]) -> bool:
        """Whether *events* of the package are what was told last."""
        told = [tell(event) for event in events]
        if self.inflating and told and told[-1] == ("failure", 1007):
            # zlib reads on when its output is full, and may find a fault behind the byte that
            # is one too many, before it says that there is one.
            if "deflate" in events[-1].reason:
                told[-1] = ("failure", 1009)
        return told == self.told

    def _read_frames(self) -> t.Generator[None, int, None]:
        """RFC 6455, section 5.2, field by field; each yield takes a byte."""
        message: SlowMessage | None = None
        while True:
            first = yield
            second = yield
            fin, opcode = first >= 0b10000000, first % 16
            rsv1, rsv2, rsv3 = first & 0b01000000, first & 0b00100000, first & 0b00010000
            size = second % 128
            if rsv2 or rsv3:
                raise Broken(1002)
            if second < 0b10000000:
                raise Broken(1002)  # section 5.1: a client masks
            if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
                raise Broken(1002)
            is_control = opcode in (CLOSE, PING, PONG)
            if is_control and (not fin or size > 125 or rsv1):
                raise Broken(1002)  # section 5.5
            if opcode == CONTINUATION and (message is None or rsv1):
                raise Broken(1002)  # section 5.4
            if opcode in (TEXT, BINARY):
                if message is not None:
                    raise Broken(1002)
                if rsv1 and self.inflater is None:
                    raise Broken(1002)
                message = SlowMessage(opcode, self.limit, self.inflater if rsv1 else None)
            if size in (126, 127):
                count, size = (2 if size == 126 else 8), 0
                for _ in range(count):
                    size = size * 256 + (yield)
                if size >= 1 << 63:
                    raise Broken(1002)
            if not is_control:
                assert message is not None
                message.claim(size)
            mask = []
            for _ in range(4):
                mask.append((yield))
            payload = bytearray()
            for index in range(size):
                byte = (yield) ^ mask[index % 4]
                if is_control:
                    payload.append(byte)
                else:
                    assert message is not None
                    message.take(byte)
            if is_control:
                self.told.append(read_control(opcode, bytes(payload)))
                if opcode == CLOSE:
                    return  # section 1.4: what follows is ignored
            elif fin:
                assert message is not None
                self.told.append(message.finish())
                message = None


class SlowMessage:
    """A message that arrives, byte by byte, whatever its frames."""

    def __init__(self, opcode: int, limit: int, inflater: SlowInflater | None) -> None:
        self.opcode = opcode
        self.limit = limit
        self.inflater = inflater
        self.claimed = 0
        self.data = bytearray()
        self.utf8 = SlowUTF8()

    def claim(self, size: int) -> None:
        """A frame says how long it is. What is inflated may be shorter than what arrives."""
        self.claimed += size
        wire_limit = self.limit if self.inflater is None else 2 * self.limit + 1024
        if self.claimed > wire_limit:
            raise Broken(1009)

    def take(self, byte: int) -> None:
        if self.inflater is None:
            self._append(bytes([byte]))
        else:
            self._inflate([byte])

    def finish(self) -> Told:
        if self.inflater is not None and self.claimed:
            # RFC 7692, section 7.2.2: append these, then inflate.
            self._inflate([0x00, 0x00, 0xFF, 0xFF])
            self.inflater.end_message()
        if self.opcode == BINARY:
            return "binary", bytes(self.data)
        if not self.utf8.may_end:
            raise Broken(1007)
        return "text", bytes(self.data).decode("utf-8")

    def _inflate(self, data: t.Iterable[int]) -> None:
        assert self.inflater is not None
        try:
            for byte in data:
                for out in self.inflater.inflate(byte):
                    self._append(out)
        except zlib.error:
            raise Broken(1007) from None

    def _append(self, data: bytes) -> None:
        for byte in data:
            if len(self.data) == self.limit:
                raise Broken(1009, inflating=self.inflater is not None)
            if self.opcode == TEXT and not self.utf8.take(byte):
                raise Broken(1007)
            self.data.append(byte)


class SlowInflater:
    """The client's direction of permessage-deflate, byte by byte (RFC 7692, section 7.2.2)."""

    def __init__(self, *, bits: int = 15, takeover: bool = True) -> None:
        self.bits = max(bits, 9)  # zlib reads a window of 8 bits with one of 9
        self.takeover = takeover
        self.inflater = zlib.decompressobj(-self.bits)

    def inflate(self, byte: int) -> t.Iterator[bytes]:
        """Each byte that comes of *byte*."""
        if self.inflater.eof:
            # RFC 7692, section 7.2.3.4: more may follow a block that says it is the last.
            self.inflater = zlib.decompressobj(-self.bits)
        piece = bytes([byte])
        while out := self.inflater.decompress(piece, 1):
            yield out
            piece = self.inflater.unconsumed_tail

    def end_message(self) -> None:
        if not self.takeover:
            self.inflater = zlib.decompressobj(-self.bits)

    def outcomes(self, payload: bytes, room: int) -> list[bytes | str]:
        """A whole message, "too big" if it has more than *room* bytes, or "not deflate".

        Both where the fault is right behind the one byte that is too many: when its output
        is full zlib reads on, and may find the fault before it says that there is more.
        """
        larger = copy.copy(self)
        larger.inflater = self.inflater.copy()
        found = self._outcome(payload, room)
        if found == "too big" and larger._outcome(payload, room + 1) == "not deflate":
            return ["too big", "not deflate"]
        return [found]

    def _outcome(self, payload: bytes, room: int) -> bytes | str:
        data = b""
        try:
            for byte in payload + b"\x00\x00\xff\xff":
                for out in self.inflate(byte):
                    data += out
                    if len(data) > room:
                        return "too big"
        except zlib.error:
            return "not deflate"
        self.end_message()
        return data


class SlowUTF8:
    """Which bytes may come next, by the table of RFC 3629, section 4."""

    TAIL = range(0x80, 0xC0)
    AFTER: t.ClassVar = [
        (range(0x80), []),
        (range(0xC2, 0xE0), [TAIL]),
        (range(0xE0, 0xE1), [range(0xA0, 0xC0), TAIL]),
        (range(0xE1, 0xED), [TAIL, TAIL]),
        (range(0xED, 0xEE), [range(0x80, 0xA0), TAIL]),
        (range(0xEE, 0xF0), [TAIL, TAIL]),
        (range(0xF0, 0xF1), [range(0x90, 0xC0), TAIL, TAIL]),
        (range(0xF1, 0xF4), [TAIL, TAIL, TAIL]),
        (range(0xF4, 0xF5), [range(0x80, 0x90), TAIL, TAIL]),
    ]

    def __init__(self) -> None:
        self.expected: list[range] = []

    @property
    def may_end(self) -> bool:
        return not self.expected

    def take(self, byte: int) -> bool:
        """Whether *byte* may stand there."""
        if self.expected:
            return byte in self.expected.pop(0)
        for first, after in self.AFTER:
            if byte in first:
                self.expected = list(after)
                return True
        return False


def read_control(opcode: int, payload: bytes) -> Told:
    """RFC 6455, sections 5.5 and 7.4."""
    if opcode == PING:
        return "ping", payload
    if opcode == PONG:
        return "pong", payload
    if len(payload) == 0:
        return "close", 1005, ""
    if len(payload) == 1:
        raise Broken(1002)
    code = payload[0] * 256 + payload[1]
    if code not in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014) and (
        code < 3000 or code > 4999
    ):
        raise Broken(1002)
    utf8 = SlowUTF8()
    if not all(utf8.take(byte) for byte in payload[2:]) or not utf8.may_end:
        raise Broken(1007)
    return "close", code, payload[2:].decode("utf-8")


# Fields of the handshake

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class SlowField:
    """Reads a field's value a character at a time, a method for each rule of the grammar.

    The methods raise ValueError where the value does not follow the rule.
    """

    def __init__(self, value: str) -> None:
        self.characters = list(value)

    @property
    def next(self) -> str:
        """The next character; nothing at the end."""
        return self.characters[0] if self.characters else ""

    def take(self) -> str:
        return self.characters.pop(0)

    def skip_blanks(self) -> None:
        """OWS of RFC 9110, section 5.6.3."""
        while self.next in (" ", "\t"):
            self.take()

    def token(self) -> str:
        """RFC 9110, section 5.6.2."""
        token = ""
        while self.next and self.next in TOKEN_CHARACTERS:
            token += self.take()
        if not token:
            raise ValueError("a token is expected")
        return token

    def quoted_token(self) -> str:
        """RFC 6455, section 9.1: a quoted-string that is a token once it is read."""
        text = ""
        self.take()
        while self.next != '"':
            if self.next == "\\":
                self.take()
            if not self.next:
                raise ValueError("a quotation mark is missing")
            text += self.take()
        self.take()
        if not text or any(character not in TOKEN_CHARACTERS for character in text):
            raise ValueError("it is quoted and no token")
        return text

    def parameter(self) -> tuple[str, str | None]:
        """extension-param of RFC 6455, section 9.1."""
        name = self.token()
        self.skip_blanks()
        if self.next != "=":
            return name, None
        self.take()
        self.skip_blanks()
        value = self.quoted_token() if self.next == '"' else self.token()
        self.skip_blanks()
        return name, value

    def extension(self) -> tuple[str, list[tuple[str, str | None]]]:
        """extension of RFC 6455, section 9.1."""
        name = self.token()
        self.skip_blanks()
        parameters = []
        while self.next == ";":
            self.take()
            self.skip_blanks()
            parameters.append(self.parameter())
        return name, parameters

    def list_of(self, item: t.Callable[[], t.Any]) -> list[t.Any]:
        """RFC 9110, section 5.6.1: with commas between, and any number of empty items."""
        items = []
        while True:
            self.skip_blanks()
            if self.next not in ("", ","):
                items.append(item())
                self.skip_blanks()
            if not self.next:
                return items
            if self.take() != ",":
                raise ValueError("a comma is expected")


def slow_tokens(value: str) -> list[str]:
    """Read Sec-WebSocket-Protocol."""
    field = SlowField(value)
    return field.list_of(field.token)


def slow_extensions(value: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Read Sec-WebSocket-Extensions."""
    field = SlowField(value)
    return field.list_of(field.extension)


def slow_is_key(key: str) -> bool:
    """RFC 4648, section 4: 16 bytes are 21 letters, one of four, and two equals signs."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return len(key) == 24 and all(letter in letters for letter in key[:22]) and key[22:] == "=="

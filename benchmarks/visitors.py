"""Clients that come, talk and leave in every manner, one step at a time.

Knows raw sockets and frames; whoever answers otherwise than expected is a
:class:`WrongAnswer`. Knows nothing of processes and memory.
"""

from __future__ import annotations

import random
import socket
import struct
import zlib

TIMEOUT = 30.0
#: So many connections are open at most, but for those that wait to be given up.
CROWD = 12
#: With those.
MOST = 20
ROOMS = 4
#: Bytes in flight, which must fit in the buffers of both ends.
IN_FLIGHT = 30_000
SIZES = (0, 5, 125, 126, 1000, 9000)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
DEFLATED = 0x40


class WrongAnswer(Exception):
    """The server did not say what it had to."""


def frame(first: int, payload: bytes) -> bytes:
    """A client's frame; *first* is its opcode with RSV1 or without."""
    return head(first, len(payload), 0x80) + bytes(4) + payload


def reply(first: int, payload: bytes) -> bytes:
    """A server's frame."""
    return head(first, len(payload), 0) + payload


def head(first: int, size: int, mask: int) -> bytes:
    if size < 126:
        return bytes([0x80 | first, mask | size])
    return struct.pack(">BBH", 0x80 | first, mask | 126, size)


class Visitor:
    """A connection.

    :param deflates: whether it offers permessage-deflate, without context takeover, so that
        the same text is the same frame each time.
    """

    def __init__(self, port: int, path: str, *, deflates: bool = False) -> None:
        self.room = path.rpartition("/")[2]
        self.deflates = deflates
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.sendall(handshake(path, deflates))
        answer = self.read_head()
        if not answer.startswith(b"HTTP/1.1 101 ") or deflates != (b"deflate" in answer):
            raise WrongAnswer(answer)

    def read_head(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += self.read(1)
        return data

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise WrongAnswer(f"the connection ended after {data[-200:]!r}")
            data += piece
        return data

    def echo(self, count: int, data: str | bytes) -> None:
        """Send *data* so many times at once, and read as many replies."""
        opcode, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        if self.deflates and payload:
            self.sock.sendall(frame(opcode | DEFLATED, deflate(payload)) * count)
            for _ in range(count):
                self.expect_deflated(opcode, payload)
        else:
            self.sock.sendall(frame(opcode, payload) * count)
            self.expect(reply(opcode, payload) * count)

    def expect(self, expected: bytes) -> None:
        found = self.read(len(expected))
        if found != expected:
            raise WrongAnswer(f"{found[:100]!r}, not {expected[:100]!r}")

    def expect_deflated(self, opcode: int, payload: bytes) -> None:
        first, size = self.read(2)
        if size == 126:
            size = int.from_bytes(self.read(2), "big")
        found = zlib.decompressobj(-15).decompress(self.read(size) + b"\x00\x00\xff\xff")
        if first != (0x80 | DEFLATED | opcode) or found != payload:
            raise WrongAnswer(f"a deflated {found[:100]!r}, not {payload[:100]!r}")

    def expect_broadcast(self, payload: bytes) -> None:
        if self.deflates:
            self.expect_deflated(TEXT, payload)
        else:
            self.expect(reply(TEXT, payload))

    def expect_end(self) -> None:
        """The server hangs up; what it says before, as a Ping, may be anything."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise WrongAnswer("the server does not hang up") from None
        self.sock.close()

    def reset(self) -> None:
        """Go with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def leave(self, manner: str) -> None:
        """Go in one of MANNERS."""
        if manner == "close":
            self.sock.sendall(frame(CLOSE, b"\x03\xe8"))
            self.expect(reply(CLOSE, b"\x03\xe8"))
            self.expect_end()
            return
        if manner == "broken frame":
            self.sock.sendall(b"\xff\xff")
            if self.read(4)[2:] != b"\x03\xea":
                raise WrongAnswer("a broken frame is closed otherwise than with 1002")
            self.expect_end()
            return
        if manner in BEFORE:
            self.sock.sendall(BEFORE[manner])
        if manner.endswith("reset"):
            self.reset()
        else:
            self.sock.close()


#: What is sent before who leaves is gone.
BEFORE = {
    "half a header": b"\x81",
    "half a header, reset": b"\x82\xfe\x01",
    "half a message": frame(TEXT, b"x" * 500)[:300],
    "half a message, reset": frame(BINARY, b"x" * 5000)[:4000],
    "half of the fragments": b"\x01" + frame(TEXT, b"x" * 100)[1:],
    "unread replies, reset": frame(TEXT, b"x" * 100) * 50,
    "half of a Close": frame(CLOSE, b"\x03\xe8")[:5],
}
MANNERS = ("close", "close", "close", "hang up", "reset", "broken frame", *BEFORE)


def handshake(path: str, deflates: bool) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    if deflates:
        parameters = "; client_no_context_takeover; server_no_context_takeover"
        lines.append(f"Sec-WebSocket-Extensions: permessage-deflate{parameters}")
    return "\r\n".join([*lines, "", ""]).encode()


def deflate(payload: bytes) -> bytes:
    deflater = zlib.compressobj(1, zlib.DEFLATED, -15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Crowd:
    """All visitors of a server.

    :param chance: what it is left to.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.port = port
        self.chance = chance
        self.open: list[Visitor] = []
        self.silent: list[Visitor] = []
        self.connections = 0
        self.messages = 0
        self.deliveries = 0
        self.manners: dict[str, int] = {}

    def step(self) -> None:
        """Somebody comes, talks or leaves."""
        kinds = (self.come, self.talk, self.talk, self.talk, self.tell, self.leave, self.knock)
        weights = (4, 4, 4, 4, 3, 4, 1)
        self.chance.choices(kinds, weights)[0]()

    def fill(self) -> None:
        """As many at once as there can be, so that a server has all its threads from then on."""
        for _ in range(MOST):
            self._admit()
        self.go()

    def come(self) -> None:
        if len(self.open) < CROWD:
            self._admit()

    def _admit(self) -> None:
        path = f"/{self.chance.randrange(ROOMS)}"
        visitor = Visitor(self.port, path, deflates=self.chance.random() < 0.2)
        self.open.append(visitor)
        visitor.echo(1, b"here")  # by then it is in its room
        self.connections += 1
        self.messages += 1

    def talk(self) -> None:
        """An echo, again and again."""
        if self.open:
            visitor = self.chance.choice(self.open)
            size = self.chance.choice(SIZES)
            data = self.chance.choice(("x" * size, b"y" * size))
            most = min(20 if visitor.deflates else 200, IN_FLIGHT // (size + 10))
            count = self.chance.randint(1, most)
            visitor.echo(count, data)
            self.messages += count

    def tell(self) -> None:
        """A broadcast to a room, which all there receive."""
        if self.open:
            visitor = self.chance.choice(self.open)
            text = b"hello" * self.chance.randint(1, 40)
            visitor.sock.sendall(frame(TEXT, b"ALL " + text))
            inside = [each for each in self.open if each.room == visitor.room]
            for each in inside:
                each.expect_broadcast(text)
            self.messages += 1
            self.deliveries += len(inside)

    def leave(self) -> None:
        if self.open:
            visitor = self.open.pop(self.chance.randrange(len(self.open)))
            manner = self.chance.choice(MANNERS)
            visitor.leave(manner)
            self._count(manner)

    def knock(self) -> None:
        """Who does not come in, or comes in and says nothing any more."""
        manner = self.chance.choice(("half a handshake", "a wrong handshake", "silence"))
        self._count(manner)
        self.connections += 1
        if manner == "silence":
            visitor = Visitor(self.port, "/hasty/0")
            visitor.echo(3, "still here")
            self.messages += 3
            self.silent.append(visitor)
            return
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as sock:
            if manner == "half a handshake":
                sock.sendall(handshake("/0", False)[:60])
                return
            sock.sendall(handshake("/0", False).replace(b"Version: 13", b"Version: 12"))
            if not sock.recv(4096).startswith(b"HTTP/1.1 426 "):
                raise WrongAnswer("another version is answered otherwise than with 426")

    def go(self) -> None:
        """Let all leave, and the server give up those who are silent."""
        for visitor in self.open:
            visitor.leave("close")
            self._count("close")
        for visitor in self.silent:
            visitor.expect_end()
        self.open.clear()
        self.silent.clear()

    def _count(self, manner: str) -> None:
        self.manners[manner] = self.manners.get(manner, 0) + 1

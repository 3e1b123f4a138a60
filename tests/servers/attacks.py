"""Attacks on a server of ``attacked.py`` by plain sockets, and what they cost it.

The tests assert what comes of them; ``benchmarks/hostile.py`` prints the figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import socket
import struct
import sys
import threading
import time
import typing as t
import zlib

from harness import HERE
from harness import open_raw
from harness import Process

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9
FIN, RSV1, MASKED = 0x80, 0x40, 0x80
#: How many streams of deflate there are in :func:`final_blocks`.
STREAMS = 60_000
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_GUNICORN = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "attacked:app"]

#: What starts the app; one server of gevent and one of threads.
SERVERS = {
    "pywsgi": [sys.executable, str(HERE / "attacked.py"), "PORT"],
    "gthread": [*_GUNICORN, "-k", "gthread", "--threads", "60", "-b", "127.0.0.1:PORT"],
}

#: A connection that agrees to permessage-deflate.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


# Frames


def frame(first: int, payload: bytes, size: int | None = None) -> bytes:
    """A client's frame, masked with zeros.

    :param first: its first byte.
    :param size: the size that it claims, if not that of the payload.
    """
    size = len(payload) if size is None else size
    if size < 126:
        length = bytes([MASKED | size])
    elif size < 0x10000:
        length = struct.pack("!BH", MASKED | 126, size)
    else:
        length = struct.pack("!BQ", MASKED | 127, size)
    return bytes([first]) + length + bytes(4) + payload


def fragments(pieces: t.Sequence[bytes], opcode: int = BINARY, rsv: int = 0) -> bytes:
    """A message in pieces, but for its last: it has no end."""
    start = frame(opcode | rsv, pieces[0])
    return start + b"".join(frame(CONTINUATION, piece) for piece in pieces[1:])


def bomb(size: int) -> bytes:
    """So many zeros, deflated. A mebibyte that refers to nothing, over and over."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    mebibyte = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return mebibyte * (size // MIB)


def final_blocks(room: int) -> bytes:
    """Deflate that fills *room* bytes, and then has one byte in each of very many streams."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    filling = deflater.compress(bytes(room)) + deflater.flush()
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return filling + (deflater.compress(b"x") + deflater.flush()) * STREAMS


# Reading what the server sends


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """The opcode and the payload of the next frame."""
    first, second = _read(sock, 2)
    size = second
    if second == 126:
        size = int.from_bytes(_read(sock, 2), "big")
    elif second == 127:
        size = int.from_bytes(_read(sock, 8), "big")
    return first & 0x0F, _read(sock, size)


def read_close(sock: socket.socket) -> tuple[int, str]:
    """The code and the reason of the Close frame that comes; 1006 if none does."""
    try:
        while True:
            opcode, payload = read_frame(sock)
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()
    except ConnectionError:
        return 1006, ""


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionResetError(f"the connection ended after {data!r}")
        data += piece
    return data


def open_deflate(server: Process, path: str = "/") -> socket.socket:
    """A connection that compresses."""
    sock = server.socket()
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\n{DEFLATE}\r\n"
    )
    sock.sendall(head.encode())
    response = b""
    while not response.endswith(b"\r\n\r\n"):
        response += _read(sock, 1)
    assert b"permessage-deflate" in response, response
    return sock


def open_slow(server: Process, path: str) -> socket.socket:
    """A connection whose side takes little more than it reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", server.port))
    head = (
        f"GET {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    sock.sendall(head.encode())
    response = b""
    while not response.endswith(b"\r\n\r\n"):
        response += _read(sock, 1)
    return sock


# What it costs


class Cost:
    """What a server did while it was watched.

    :ivar growth: by how many bytes its memory grew at its peak.
    :ivar seconds: for how long it was watched.
    :ivar delays: how long another client had to wait for each of its answers.
    """

    growth = 0
    seconds = 0.0

    def __init__(self) -> None:
        self.delays: list[float] = []


@contextlib.contextmanager
def watch(server: Process, pause: float = 0.005) -> t.Iterator[Cost]:
    """Watch the memory of the server, and let another client talk to it meanwhile.

    :param pause: seconds between an answer and the next message.
    """
    pid = server.worker_pid()
    cost, stop, errors = Cost(), threading.Event(), list[BaseException]()
    other = open_raw(server)

    def talk() -> None:
        try:
            while not stop.is_set():
                started = time.monotonic()
                other.sendall(frame(FIN | TEXT, b"still here"))
                assert read_frame(other) == (TEXT, b"still here")
                cost.delays.append(time.monotonic() - started)
                stop.wait(pause)
        except BaseException as error:
            errors.append(error)

    before = _reset_peak(pid)
    thread = threading.Thread(target=talk)
    started = time.monotonic()
    thread.start()
    try:
        yield cost
    finally:
        cost.seconds = time.monotonic() - started
        stop.set()
        thread.join(30)
        other.close()
    cost.growth = _memory(pid, "VmHWM") - before
    if errors:
        raise errors[0]


def _memory(pid: int, key: str) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * KIB


def _reset_peak(pid: int) -> int:
    """Let the peak begin at what is used now."""
    with contextlib.suppress(OSError):  # where the kernel does not let us, it is the highest yet
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory(pid, "VmHWM")


def state(server: Process) -> t.Any:
    """What the app says of itself."""
    return json.loads(server.request("/state")[2])


def push(sock: socket.socket, data: bytes, limit: int) -> int:
    """Send *data* over and over until the other side takes no more for a while.

    :param limit: so many bytes are not to be taken.
    :return: how many were.
    """
    sent, view = 0, memoryview(data)
    sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < limit:
            sent += sock.send(view[sent % len(data) :])
    return sent


@contextlib.contextmanager
def flooding(sock: socket.socket, data: bytes) -> t.Iterator[list[int]]:
    """Send *data* again and again from a thread of its own, for as long as it goes."""
    sent, stop = [0], threading.Event()
    sock.settimeout(10)

    def send() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                sock.sendall(data)
                sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(15)
        sock.close()


def receive_all(sock: socket.socket, size: int) -> None:
    """Read so many bytes, and keep none."""
    while size:
        piece = sock.recv(min(size, 65536))
        if not piece:
            raise ConnectionResetError("the connection ended")
        size -= len(piece)


# Whole attacks


def send_many(server: Process, count: int, path: str = "/", in_flight: int = 64) -> None:
    """So many echoes on one connection, with some of them under way at once."""
    message = frame(FIN | TEXT, b"message")
    with open_raw(server, path) as sock:
        for _ in range(count // in_flight):
            sock.sendall(message * in_flight)
            receive_all(sock, in_flight * 9)


def allow_files(count: int) -> None:
    """Let this process, and what it starts, have so many descriptors open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    assert hard >= count, f"the system allows {hard} open files, and {count} are needed"


def open_silent(server: Process, count: int) -> list[socket.socket]:
    """Connections that never say a word: to the server, peers that are gone."""
    return [open_raw(server, "/silent") for _ in range(count)]


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))

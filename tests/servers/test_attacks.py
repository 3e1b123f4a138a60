"""Hostile peers against real servers: what they cost, how they end, who has to wait."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import time
import typing as t

import pytest
from attacks import allow_files
from attacks import BINARY
from attacks import bomb
from attacks import CLOSE
from attacks import CONTINUATION
from attacks import Cost
from attacks import FIN
from attacks import final_blocks
from attacks import flooding
from attacks import fragments
from attacks import frame
from attacks import GIB
from attacks import KIB
from attacks import MIB
from attacks import open_deflate
from attacks import open_silent
from attacks import open_slow
from attacks import PING
from attacks import push
from attacks import read_close
from attacks import read_frame
from attacks import RSV1
from attacks import send_many
from attacks import SERVERS
from attacks import state
from attacks import STREAMS
from attacks import TEXT
from attacks import watch
from harness import open_raw
from harness import Process
from harness import TIMEOUT

Start = t.Callable[..., Process]

#: No attack may cost more than this, in bytes.
LIMIT = 8 * MIB


@pytest.fixture(scope="module", params=list(SERVERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def start_once(kind: str, factory: pytest.TempPathFactory, **keys: str) -> t.Iterator[Process]:
    environ = {f"FLASK_WEBSOCKETS_{key.upper()}": value for key, value in keys.items()}
    process = Process(SERVERS[kind], factory.mktemp("attacked") / "log", environ=environ)
    try:
        # What it needs once is no cost of an attack.
        for path in ("/", "/count", "/work"):
            open_raw(process, path).close()
        with open_deflate(process) as sock:
            sock.sendall(frame(FIN | TEXT, b"x"))
            read_frame(sock)
        state(process)
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Process]:
    """Each server with the limits that hold by themselves, but for that of the end."""
    yield from start_once(kind, tmp_path_factory, close_timeout="1")


@pytest.fixture(scope="module")
def pressed(kind: str, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Process]:
    """Each server with large messages and little patience."""
    yield from start_once(
        kind,
        tmp_path_factory,
        close_timeout="1",
        ping_interval="0.5",
        ping_timeout="0.5",
        max_message_size=str(4 * MIB),
    )


@pytest.fixture(scope="module")
def crowded(kind: str, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Process]:
    """Each server with small buffers."""
    yield from start_once(kind, tmp_path_factory, send_buffer="65536", slow_client="drop")


@pytest.fixture(autouse=True)
def _no_traceback(request: pytest.FixtureRequest) -> t.Iterator[None]:
    yield
    for name in ("server", "pressed", "crowded"):
        if name in request.fixturenames:
            process = request.getfixturevalue(name)
            assert process.process.poll() is None
            assert "Traceback" not in process.log()


def check(cost: Cost, limit: int = LIMIT) -> None:
    """Memory is flat, and another client was answered meanwhile."""
    assert cost.growth < limit
    assert cost.delays
    # Not how long it takes on a busy machine: that nobody waits until an attack is over.
    assert max(cost.delays) < TIMEOUT / 2


# Bombs


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_gibibyte_in_one_frame(server: Process, opcode: int):
    payload = bomb(GIB)
    with watch(server) as cost, open_deflate(server) as sock:
        sock.sendall(frame(FIN | RSV1 | opcode, payload))
        assert read_close(sock) == (1009, "a message may have 1048576 bytes at most")
    check(cost)


def test_a_gibibyte_in_many_fragments(server: Process):
    payload = bomb(GIB)
    pieces = [payload[start : start + 100] for start in range(0, len(payload), 100)]
    wire = fragments(pieces, rsv=RSV1)
    assert len(pieces) > 10_000
    with watch(server) as cost, open_deflate(server) as sock:
        sock.sendall(wire)
        assert read_close(sock) == (1009, "a message may have 1048576 bytes at most")
    check(cost)


def test_many_messages_of_a_mebibyte_in_one_read(server: Process):
    message = frame(FIN | RSV1 | BINARY, bomb(MIB)[:-4])
    with watch(server) as cost, open_deflate(server) as sock:
        for _ in range(4):
            sock.sendall(message * 64)
            for _ in range(64):
                assert read_frame(sock)[0] == TEXT  # how long it is
    check(cost)


def test_very_many_deflate_streams_behind_a_large_one(server: Process):
    # Each byte behind the large one once copied it all.
    room = MIB - STREAMS
    with watch(server) as cost, open_deflate(server) as sock:
        sock.sendall(frame(FIN | RSV1 | BINARY, final_blocks(room)))
        assert read_frame(sock)[0] == TEXT  # how long it is
    check(cost)


# Fragments


@pytest.mark.parametrize("piece", [b"x", b""], ids=["one byte", "empty"])
def test_300_000_fragments_without_an_end(server: Process, piece: bytes):
    wire = fragments([piece] * 100_000)
    more = wire.replace(frame(BINARY, piece), frame(CONTINUATION, piece), 1)
    with watch(server) as cost, open_raw(server) as sock:
        for part in (wire, more, more):
            sock.sendall(part)
        # It is no message before its end, and the connection lives.
        sock.sendall(frame(FIN | PING, b"there?"))
        assert read_frame(sock) == (0xA, b"there?")
        sock.sendall(frame(FIN | CONTINUATION, b""))
        expected = str(300_000).encode() if piece else b""
        assert read_frame(sock)[1] == expected
    check(cost)


def test_fragments_over_the_limit_without_an_end(server: Process):
    wire = fragments([b"x" * 64] * 20_000)
    with watch(server) as cost, open_raw(server) as sock:
        sock.sendall(wire)
        assert read_close(sock)[0] == 1009
    check(cost)


def test_a_legal_message_in_65_537_fragments(pressed: Process):
    # Were it copied for each of them, 128 GiB would be.
    wire = fragments([b"x" * 64] * 65_536) + frame(FIN | CONTINUATION, b"")
    with watch(pressed) as cost, open_raw(pressed) as sock:
        sock.sendall(wire)
        assert read_frame(sock) == (TEXT, str(4 * MIB).encode())
        sock.sendall(fragments([b"x" * 64] * 65_536) + frame(FIN | CONTINUATION, b"x"))
        assert read_close(sock)[0] == 1009
    assert max(cost.delays) < TIMEOUT / 2
    # Its pieces, and it as a whole.
    assert cost.growth < 2 * 4 * MIB + LIMIT


# Messages


def test_100_000_messages_on_one_connection(server: Process):
    with watch(server) as cost:
        send_many(server, 50_000)
        send_many(server, 50_000, "/echo-loop")
    check(cost)


def test_a_read_full_of_tiny_messages(server: Process):
    before = state(server)["counts"].get("count", 0)
    wire = frame(FIN | TEXT, b"") * 40_000
    with watch(server) as cost, open_raw(server, "/count") as sock:
        sock.sendall(wire)
        sock.sendall(frame(FIN | TEXT, b"?"))
        assert read_frame(sock) == (TEXT, str(before + 40_001).encode())
    check(cost)


@pytest.mark.parametrize("path", ["/work", "/work-loop"])
def test_nobody_waits_for_all_that_one_client_has_sent(server: Process, path: str):
    count, before = 1000, state(server)["counts"].get("work", 0)
    with open_raw(server, path) as sock, open_raw(server) as other:
        sock.sendall(frame(FIN | TEXT, b"") * count)
        server.wait_for(lambda: state(server)["counts"].get("work", 0) > before, "it works")
        other.sendall(frame(FIN | TEXT, b"me too"))
        assert read_frame(other) == (TEXT, b"me too")
        assert state(server)["counts"]["work"] < before + count


# Frames that may not be


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(frame(FIN | TEXT, b"", size=1 << 62), 1009, id="4 EiB"),
        pytest.param(frame(FIN | RSV1 | TEXT, b"", size=1 << 62), 1009, id="4 EiB deflated"),
        pytest.param(frame(TEXT, b"", size=1 << 62), 1009, id="4 EiB in a fragment"),
        pytest.param(frame(FIN | TEXT, b"", size=(1 << 64) - 1), 1002, id="16 EiB"),
        pytest.param(frame(FIN | PING, b"", size=1 << 62), 1002, id="a Ping of 4 EiB"),
        pytest.param(frame(FIN | 0x20 | TEXT, b"x"), 1002, id="RSV2"),
        pytest.param(frame(FIN | 0x10 | TEXT, b"x"), 1002, id="RSV3"),
        pytest.param(frame(FIN | RSV1 | TEXT, b"x"), 1002, id="RSV1 without deflate"),
        pytest.param(frame(FIN | 0x3, b"x"), 1002, id="opcode 3"),
        pytest.param(frame(FIN | 0xB, b"x"), 1002, id="opcode 11"),
        pytest.param(b"\x81\x05hello", 1002, id="no mask"),
        pytest.param(b"\x88\x00", 1002, id="a Close without a mask"),
        pytest.param(frame(PING, b"x"), 1002, id="a fragmented Ping"),
        pytest.param(frame(FIN | CONTINUATION, b"x"), 1002, id="nothing to continue"),
        pytest.param(frame(FIN | TEXT, b"\xff"), 1007, id="no UTF-8"),
    ],
)
def test_what_may_not_be_is_closed(server: Process, wire: bytes, code: int):
    # Only "4 EiB deflated" may be compressed.
    is_deflate = wire[0] & RSV1 and code == 1009
    with open_raw(server) as other:
        with open_deflate(server) if is_deflate else open_raw(server) as sock:
            sock.sendall(wire + frame(FIN | TEXT, b"behind it") * 100)
            assert read_close(sock)[0] == code
            assert sock.recv(1) == b""
        other.sendall(frame(FIN | TEXT, b"still here"))
        assert read_frame(other) == (TEXT, b"still here")


def test_frames_after_the_close_are_not_heard(server: Process):
    before = state(server)["counts"].get("count", 0)
    with open_raw(server, "/count") as sock:
        sock.sendall(frame(FIN | CLOSE, b"\x03\xe8") + frame(FIN | TEXT, b"") * 1000)
        assert read_frame(sock) == (CLOSE, b"\x03\xe8")
        assert sock.recv(1) == b""
    assert state(server)["counts"].get("count", 0) == before


def test_a_byte_at_a_time(server: Process):
    wire = frame(FIN | PING, b"ping") + frame(FIN | TEXT, b"hello") + fragments([b"a"] * 100)
    with watch(server) as cost, open_raw(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in wire + frame(FIN | CONTINUATION, b""):
            sock.sendall(bytes([byte]))
        # First in any case: what comes in one read with a message is answered before it.
        assert read_frame(sock) == (0xA, b"ping")
        assert read_frame(sock) == (TEXT, b"hello")
        assert read_frame(sock) == (BINARY, b"a" * 100)
    check(cost)


# Floods


def test_pings_of_a_peer_that_reads_nothing(pressed: Process):
    before = state(pressed)["closes"].get("1006 ", 0)
    with watch(pressed) as cost, open_slow(pressed, "/") as sock:
        taken = push(sock, frame(FIN | PING, b"p" * 125) * 500, 64 * MIB)
        assert taken < 64 * MIB  # it was read no faster than it read
        pressed.wait_for(
            lambda: state(pressed)["closes"].get("1006 ", 0) > before, "it is given up"
        )
    check(cost)


@pytest.mark.parametrize("path", ["/", "/echo-loop"])
@pytest.mark.parametrize(
    "wire",
    [
        frame(FIN | PING, b"") * 1000,
        frame(FIN | 0xA, b"") * 1000,
        fragments([b""] * 1000).replace(frame(BINARY, b""), frame(CONTINUATION, b"")),
    ],
    ids=["pings", "pongs", "empty fragments"],
)
def test_a_flood_that_never_ends_keeps_nobody_waiting(server: Process, wire: bytes, path: str):
    with watch(server) as cost, open_raw(server, path) as sock, open_raw(server) as other:
        sock.sendall(frame(BINARY, b"begins"))
        with flooding(sock, wire) as sent:
            other.sendall(frame(FIN | TEXT, b"x") * 20)
            assert [read_frame(other) for _ in range(20)] == [(TEXT, b"x")] * 20
            # In the middle of it.
            server.wait_for(lambda: sent[0] > 100 or wire[0] == FIN | PING, "it goes on")
    check(cost)


@pytest.mark.parametrize("who", ["the peer", "the server"])
def test_a_flood_behind_the_close_ends_in_time(server: Process, who: str):
    closed = "1000 " if who == "the peer" else "4000 as asked"
    path = "/" if who == "the peer" else "/work"
    before = state(server)["closes"].get(closed, 0)
    with watch(server) as cost:
        sock = open_raw(server, path)
        sock.sendall(
            frame(FIN | CLOSE, b"\x03\xe8") if path == "/" else frame(FIN | TEXT, b"close")
        )
        pid = server.worker_pid()
        port = sock.getsockname()[1]
        with flooding(sock, frame(FIN | TEXT, b"x" * 125) * 1000):
            server.wait_for(lambda: not is_connected(pid, port, server.port), "it is cut off")
    if path == "/":
        assert state(server)["closes"][closed] == before + 1
    # 5 to 9 MiB where a thread reads as fast as it can, whether for two seconds or for twelve.
    check(cost, 2 * LIMIT)


def is_connected(pid: int, port: int, server_port: int) -> bool:
    """Whether the server's side of a connection has not ended."""
    table = pathlib.Path(f"/proc/{pid}/net/tcp").read_text()
    ours, theirs = f"0100007F:{server_port:04X}", f"0100007F:{port:04X}"
    return f" {ours} {theirs} 01 " in table


# Peers that do not read


def test_send_waits_and_gives_up(pressed: Process):
    before = state(pressed)
    with watch(pressed) as cost, open_slow(pressed, "/rooms/none") as sock:
        read_frame(sock)
        sock.sendall(frame(FIN | TEXT, b"fill"))
        pressed.wait_for(
            lambda: (
                state(pressed)["closes"].get("send 1006", 0) > before["closes"].get("send 1006", 0)
            ),
            "send gives up",
        )
    check(cost)
    # No sooner than after interval and timeout together.
    assert state(pressed)["lives"][1] >= 1


@pytest.mark.parametrize("kind", ["pywsgi"], indirect=True, scope="module")
def test_a_broadcast_to_1000_past_10_that_are_stuck(crowded: Process):
    past_stuck(crowded, 1000, 10)


@pytest.mark.parametrize("kind", ["gthread"], indirect=True, scope="module")
def test_a_broadcast_to_40_past_5_that_are_stuck(crowded: Process):
    past_stuck(crowded, 40, 5)


def past_stuck(server: Process, count: int, stuck: int) -> None:
    slow = [open_slow(server, "/rooms/stuck") for _ in range(stuck)]
    ids = [read_frame(sock)[1].decode() for sock in slow]
    good = [open_raw(server, "/rooms/good") for _ in range(count - stuck)]
    for sock in good:
        read_frame(sock)

    def are_stuck() -> bool:
        server.request(f"/broadcast/stuck?size={32 * KIB}&times=20")
        dropped = state(server)["dropped"]
        return all(dropped.get(id, 1) for id in ids)

    with watch(server) as cost:
        server.wait_for(are_stuck, "they are stuck")
        for number in range(20):
            server.request(f"/everywhere?text={number}")
        expected = [(TEXT, str(number).encode()) for number in range(20)]
        for sock in good:
            assert [read_frame(sock) for _ in range(20)] == expected
    # Each has its buffer, and what the joining of its pieces takes.
    assert cost.growth < LIMIT + 2 * stuck * 64 * KIB
    for sock in [*slow, *good]:
        sock.close()
    server.wait_for(lambda: not state(server)["dropped"], "all have left")


def test_a_peer_that_sends_faster_than_its_messages_are_handled(server: Process):
    before = state(server)["counts"].get("work", 0)
    message = frame(FIN | BINARY, bytes(64 * KIB))
    with watch(server) as cost, open_raw(server, "/work-loop") as sock:
        started = time.monotonic()
        sent = 0
        sock.settimeout(0.05)
        while time.monotonic() - started < 1:
            with contextlib.suppress(TimeoutError):
                sent += sock.send(message[sent % len(message) :])
        handled = state(server)["counts"]["work"] - before
        # What is under way is in the system's buffers, and in two reads.
        assert sent - handled * len(message) < 48 * MIB
    check(cost)


# Peers that are gone


def test_2000_silent_peers_are_noticed_without_a_timer_each(start: Start):
    notice(start(SERVERS["pywsgi"], environ=IMPATIENT), 2000)


#: For who is silent.
IMPATIENT = {"FLASK_WEBSOCKETS_PING_INTERVAL": "1", "FLASK_WEBSOCKETS_PING_TIMEOUT": "1"}


def notice(server: Process, count: int) -> None:
    allow_files(count + 200)
    watchers = state(server)["watchers"]
    peers = open_silent(server, count)
    before = state(server)
    # One watcher for each, and a few for what they share.
    assert before["watchers"] - watchers <= count + 5
    server.wait_for(lambda: not state(server)["open"], "all are given up")
    after = state(server)
    assert after["closes"] == {"1006 no answer to a ping": count}
    shortest, longest = after["lives"]
    assert shortest >= 2
    assert longest < 2 + TIMEOUT
    for peer in peers:
        peer.close()

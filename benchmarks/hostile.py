"""Attack real servers, and measure what it costs them.

    python benchmarks/hostile.py                 all of it, about 3 minutes
    python benchmarks/hostile.py --only silent   some attacks
    python benchmarks/hostile.py --write         make the table of docs/security.rst

Each attack is one connection, unless it says more, on a server of gevent (pywsgi) and on one of
threads (gunicorn's gthread), with the limits that hold unless set. Peak memory is what the
server's process had at most beyond what it had before. Another client talks to the server all
the while: its longest wait for an answer is the last figure. Needs Linux, and for the 10,000
silent peers as many open files.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
import tempfile
import time
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "servers"))

from attacks import allow_files
from attacks import BINARY
from attacks import bomb
from attacks import CLOSE
from attacks import CONTINUATION
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "security-measured.csv"
HEAD = ["Attack", "Server", "Close code", "Peak memory, MiB", "Seconds", "Another waited, ms"]

#: Keys that an attack is given more time, or less, by.
KEYS = {
    "pings": {"ping_interval": "1", "ping_timeout": "1"},
    "stuck": {"ping_interval": "1", "ping_timeout": "1"},
    "fragments": {"max_message_size": str(4 * MIB)},
    "silent": {"ping_interval": "5", "ping_timeout": "5"},
    "broadcast": {"slow_client": "drop"},
    "rate": {"rate_limit": "[20, 100]"},
}
#: What threads are too few for.
ONLY_GEVENT = {"silent", "broadcast"}


def bomb_in_one_frame(server: Process) -> t.Any:
    with open_deflate(server) as sock:
        sock.sendall(frame(FIN | RSV1 | BINARY, bomb(GIB)))
        return read_close(sock)[0]


def bomb_in_fragments(server: Process) -> t.Any:
    payload = bomb(GIB)
    pieces = [payload[start : start + 100] for start in range(0, len(payload), 100)]
    with open_deflate(server) as sock:
        sock.sendall(fragments(pieces, rsv=RSV1))
        return read_close(sock)[0]


def bombs_within_the_limit(server: Process) -> t.Any:
    message = frame(FIN | RSV1 | BINARY, bomb(MIB)[:-4])
    with open_deflate(server) as sock:
        for _ in range(4):
            sock.sendall(message * 64)
            for _ in range(64):
                read_frame(sock)
    return None


def streams_in_one_message(server: Process) -> t.Any:
    with open_deflate(server) as sock:
        sock.sendall(frame(FIN | RSV1 | BINARY, final_blocks(MIB - STREAMS)))
        read_frame(sock)
    return None


def endless(piece: bytes) -> t.Callable[[Process], t.Any]:
    def attack(server: Process) -> t.Any:
        more = frame(CONTINUATION, piece) * 100_000
        with open_raw(server) as sock:
            sock.sendall(frame(BINARY, piece) + more + more + more)
            sock.sendall(frame(FIN | PING, b"there?"))
            read_frame(sock)
        return None

    return attack


def legal_fragments(server: Process) -> t.Any:
    with open_raw(server) as sock:
        sock.sendall(fragments([b"x" * 64] * 65_536) + frame(FIN | CONTINUATION, b""))
        assert read_frame(sock)[0] == TEXT
    return None


def many_messages(server: Process) -> t.Any:
    send_many(server, 1_000_000)
    return None


def tiny_messages(server: Process) -> t.Any:
    with open_raw(server, "/count") as sock:
        sock.sendall(frame(FIN | TEXT, b"") * 40_000 + frame(FIN | TEXT, b"?"))
        read_frame(sock)
    return None


def huge_claim(server: Process) -> t.Any:
    with open_raw(server) as sock:
        sock.sendall(frame(FIN | TEXT, b"", size=1 << 62) + bytes(1000))
        return read_close(sock)[0]


def no_mask(server: Process) -> t.Any:
    with open_raw(server) as sock:
        sock.sendall(b"\x81\x05hello")
        return read_close(sock)[0]


def pings_unread(server: Process) -> t.Any:
    with open_slow(server, "/") as sock:
        push(sock, frame(FIN | PING, b"p" * 125) * 500, 64 * MIB)
        server.wait_for(lambda: state(server)["closes"]["1006 "] == 2, "it is given up")
    return 1006


def replies_unread(server: Process) -> t.Any:
    with open_slow(server, "/rooms/none") as sock:
        read_frame(sock)
        sock.sendall(frame(FIN | TEXT, b"fill"))
        server.wait_for(lambda: state(server)["closes"].get("send 1006"), "send gives up")
    return 1006


def flood(data: bytes) -> t.Callable[[Process], t.Any]:
    def attack(server: Process) -> t.Any:
        sock = open_raw(server)
        sock.sendall(frame(BINARY, b"begins"))
        with flooding(sock, data):
            time.sleep(3)
        return None

    return attack


def flood_behind_the_close(server: Process) -> t.Any:
    sock = open_raw(server)
    sock.sendall(frame(FIN | CLOSE, b"\x03\xe8"))
    with flooding(sock, frame(FIN | TEXT, b"x" * 125) * 1000) as sent:
        last, deadline = -1, time.monotonic() + 30
        while sent[0] != last and time.monotonic() < deadline:
            last = sent[0]
            time.sleep(0.5)
    return 1000


def too_many(server: Process) -> t.Any:
    with open_raw(server) as sock:
        sock.sendall(frame(FIN | TEXT, b"") * 10_000)
        return read_close(sock)[0]


def broadcast_past_the_stuck(server: Process) -> t.Any:
    allow_files(2000)
    stuck = [open_slow(server, "/rooms/stuck") for _ in range(10)]
    good = [open_raw(server, "/rooms/good") for _ in range(990)]
    for sock in stuck + good:
        read_frame(sock)
    while sum(state(server)["dropped"].values()) < 10:
        server.request(f"/broadcast/stuck?size={256 * KIB}&times=20")
    for number in range(20):
        server.request(f"/everywhere?text={number}")
    for sock in good:
        assert [read_frame(sock)[1] for _ in range(20)] == [b"%d" % n for n in range(20)]
    for sock in stuck + good:
        sock.close()
    return None


def silent_peers(server: Process) -> t.Any:
    allow_files(11_000)
    peers = open_silent(server, 10_000)
    deadline = time.monotonic() + 60
    while state(server)["open"] and time.monotonic() < deadline:
        time.sleep(0.2)
    after = state(server)
    assert after["closes"]["1006 no answer to a ping"] == 10_000, after
    for peer in peers:
        peer.close()
    shortest, longest = after["lives"]
    print(f"   noticed after {shortest:.2f} to {longest:.2f} s of silence", file=sys.stderr)
    return 1006


#: By the name for ``--only``: what it is, and what does it.
ATTACKS: dict[str, tuple[str, t.Callable[[Process], t.Any]]] = {
    "bomb": ("1 GiB deflated, in one frame", bomb_in_one_frame),
    "bomb-fragments": ("the same in 10,500 fragments", bomb_in_fragments),
    "bombs": ("256 messages of 1 MiB deflated, 64 at once", bombs_within_the_limit),
    "streams": ("60,000 streams of deflate in one message", streams_in_one_message),
    "one-byte": ("300,000 fragments of one byte, no end", endless(b"x")),
    "empty": ("300,000 empty fragments, no end", endless(b"")),
    "fragments": ("a legal message of 4 MiB in 65,537 fragments", legal_fragments),
    "million": ("1,000,000 echoes on one connection", many_messages),
    "tiny": ("40,000 messages in one send", tiny_messages),
    "claim": ("a length of 4 EiB", huge_claim),
    "mask": ("a frame without a mask", no_mask),
    "pings": ("Pings, and their Pongs are not read", pings_unread),
    "stuck": ("a handler sends, and it is not read", replies_unread),
    "flood-pongs": ("3 s of Pongs", flood(frame(FIN | 0xA, b"") * 1000)),
    "flood-empty": ("3 s of empty fragments", flood(frame(CONTINUATION, b"") * 1000)),
    "flood-close": ("messages behind the Close, until cut off", flood_behind_the_close),
    "rate": ("10,000 messages where 100 are allowed", too_many),
    "broadcast": ("20 broadcasts to 1,000, of whom 10 are stuck", broadcast_past_the_stuck),
    "silent": ("10,000 peers fall silent", silent_peers),
}


def measure(name: str, kind: str, folder: pathlib.Path) -> list[str]:
    """One row of the table."""
    what, attack = ATTACKS[name]
    environ = {
        f"FLASK_WEBSOCKETS_{key.upper()}": value for key, value in KEYS.get(name, {}).items()
    }
    server = Process(SERVERS[kind], folder / f"{name}-{kind}", environ=environ)
    try:
        with open_deflate(server) as sock:  # what it needs once is no cost of an attack
            sock.sendall(frame(FIN | TEXT, b"x"))
            read_frame(sock)
        server.wait_for(lambda: state(server)["closes"].get("1006 "), "it has left")
        pause = 0.1 if name == "rate" else 0.005
        with watch(server, pause) as cost:
            code = attack(server)
    finally:
        server.stop()
    row = [
        what,
        kind,
        str(code or "none"),
        f"{max(0, cost.growth) / MIB:.1f}",
        f"{cost.seconds:.1f}",
        f"{max(cost.delays) * 1000:.0f}",
    ]
    print(" | ".join(row), file=sys.stderr)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"some of {', '.join(ATTACKS)}")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(ATTACKS)
    allow_files(11_000 if "silent" in names else 2000)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(name, kind, pathlib.Path(folder))
            for name in names
            for kind in SERVERS
            if kind == "pywsgi" or name not in ONLY_GEVENT
        ]
    if options.write:
        with TABLE.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])


if __name__ == "__main__":
    main()

"""The soak runs, and what grows is noticed."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import soak
import visitors
from measure import ROOT


def samples(count=50, step=20_000, **growth):
    """Samples in which each thing grows by so much from one to the next."""
    held = {"rss_kib": 40_000, **dict.fromkeys(soak.COUNTED, 7)}
    return [
        {
            "messages": (number + 1) * step,
            **{name: value + number * growth.get(name, 0) for name, value in held.items()},
        }
        for number in range(count)
    ]


def verdict(*args, **growth):
    return soak.verdict({"samples": samples(*args, **growth)})


def test_flat():
    assert verdict() == "flat: +0.000 KiB for each 1,000 messages, +0 KiB in all"


@pytest.mark.parametrize("name", soak.COUNTED)
def test_a_leak_of_one_in_a_hundred_thousand_messages_shows(name):
    assert verdict(**{name: 0.2}) == f"grows: 8 {name} more, of 9.0"


def test_a_quarter_of_a_byte_for_a_message_is_all_that_memory_may_grow():
    assert verdict(rss_kib=4).startswith("flat: +0.200 KiB")
    assert verdict(rss_kib=10) == "grows: +0.500 KiB for each 1,000 messages, +390 KiB in all"


def test_pages_come_and_go():
    noisy = samples()
    for sample in noisy[::3]:
        sample["rss_kib"] += 300
    assert soak.verdict({"samples": noisy}).startswith("flat")


def test_the_first_fifth_does_not_count():
    warm = samples()
    for number, sample in enumerate(warm[:10]):
        sample["rss_kib"] -= 10_000 - 1000 * number
        sample["threads"] = number
    assert soak.verdict({"samples": warm}).startswith("flat")


def test_few_messages_say_nothing_of_memory():
    assert verdict(5, 1000, rss_kib=500).startswith("short, so this says little: +500.000 KiB")


def test_a_wrong_answer_is_what_counts():
    assert soak.verdict({"samples": [], "error": "it said no"}) == "wrong: it said no"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\x81\x04herx", "not b'"),
        (b"\x81\x03her", "the connection ended"),
        (b"\x88\x02\x03\xf3", "the connection ended"),
        (b"", "the connection ended"),
    ],
)
def test_a_wrong_reply_is_noticed(answer, error):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_once, args=(listener, answer))
        server.start()
        crowd = visitors.Crowd(listener.getsockname()[1], random.Random(1))
        with pytest.raises(visitors.WrongAnswer, match=error):
            crowd.come()
        crowd.open[0].sock.close()
        server.join(10)


def answer_once(listener: socket.socket, answer: bytes) -> None:
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        client.recv(4096)
        client.sendall(answer)


def test_every_manner_is_left_to_chance():
    assert len(set(visitors.MANNERS)) == len(visitors.BEFORE) + 4


def test_the_command_soaks_a_server(tmp_path):
    file = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks/soak.py"), "--messages", "3000"]
    result = subprocess.run(
        [*command, "--samples", "5", "--seconds", "20", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(file.read_text())
    last = found["samples"][-1]
    assert last["messages"] >= 3000
    assert last["clients"] == 0
    assert found["verdict"].startswith("short, so this says little: ")
    assert found["connections"] > 20
    # What the docs show can be made of it.
    lines = soak.table({"pywsgi": found})
    assert lines[0] == ["server", "gevent's pywsgi"]
    assert all(len(line) == 2 for line in lines)


def test_the_page_shows_the_last_run():
    results = json.loads(soak.RESULTS.read_text())
    shown = [line.split(",")[0] for line in soak.TABLE.read_text().splitlines()]
    assert [line[0].split(",")[0] for line in soak.table(results)] == [
        name.strip('"') for name in shown
    ]
    page = (ROOT / "docs/fuzzing.rst").read_text()
    assert f":file: {soak.TABLE.name}" in page
    assert ".. image:: images/soak.png" in page

"""The benchmarks run, and count right."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
sys.path.append(str(Path(__file__).parent / "servers"))

import measure
import report
from harness import needs
from measure import ROOT


def rows(server: str, work: str, *values: float, **particulars: float) -> list[report.Row]:
    """A row for each round."""
    return [
        {"server": server, "work": work, "round": number, "value": value, **particulars}
        for number, value in enumerate(values)
    ]


# Medians, ratios and tables


def test_median_and_spread():
    found = report.summarize(rows("ours", "b", 90.0, 130.0, 100.0, p99_us=1500.0))
    assert found == {("ours", "b"): report.Cell(100.0, 0.2, 1500.0, False)}


def test_one_round_has_no_spread():
    cell = report.summarize(rows("ours", "f", 10.0))["ours", "f"]
    assert cell == report.Cell(10.0, None, None, False)


def test_failed_rounds_do_not_count():
    failed = {"server": "ours", "work": "a", "round": 2, "error": "wrong reply"}
    only_failed = {"server": "picows", "work": "a", "round": 0, "error": "wrong reply"}
    found = report.summarize([*rows("ours", "a", 1.0, 3.0), failed, only_failed])
    assert found.keys() == {("ours", "a")}
    assert found["ours", "a"].median == 2.0


def test_ratios_are_within_a_round():
    # The machine is half as fast in the second round, and the servers are not less apart.
    results = rows("ours", "b", 300.0, 150.0) + rows("picows", "b", 200.0, 100.0)
    assert report.ratios(results, "picows") == {("ours", "b"): 1.5, ("picows", "b"): 1.0}


def test_ratios_leave_out_rounds_without_the_peer():
    results = rows("ours", "b", 300.0, 150.0) + rows("picows", "b", 200.0)
    assert report.ratios(results, "picows")["ours", "b"] == 1.5
    assert report.ratios(rows("ours", "b", 300.0), "picows") == {}


def test_tables():
    results = rows("picows", "a", 2000.0, 2000.0, p99_us=250.0) + rows("ours", "f", 9.5, 10.5)
    results += rows("ours", "a", 1000.0, 1500.0, p99_us=12_345.0)
    assert report.value_table(results) == [
        ["server", "a", "f"],
        ["Flask-WebSockets", "1,250 ±20%", "10.0 ±5%"],
        ["picows on uvloop", "2,000 ±0%", report.NO_FIGURE],
    ]
    assert report.ratio_table(results, "picows")[1:] == [
        ["Flask-WebSockets", "0.62", report.NO_FIGURE],
        ["picows on uvloop", "1.00", report.NO_FIGURE],
    ]
    assert report.latency_table(results[:2]) == [["server", "a"], ["picows on uvloop", "0.25"]]


def test_busy_load_generator_shows():
    results = rows("c", "c", 1e6, p99_us=100.0, load_cpu=0.99)
    assert report.value_table(results)[1][1] == "≥ 1,000,000"


def test_busy_machine_shows():
    calm = rows("ours", "b", 1.0, others=0.02) + rows("picows", "b", 1.0, others=0.04)
    assert report.others_text(calm) == "3% of their time, at most 4%"
    assert "worth little" in report.others_text(rows("ours", "b", 1.0, others=0.3))


@pytest.mark.parametrize(
    ("value", "text"), [(0.08, "0.08"), (9.74, "9.7"), (100.4, "100"), (48213.0, "48,213")]
)
def test_numbers(value, text):
    assert report.number(value) == text


def test_aligned():
    assert report.aligned([["server", "a"], ["x", "1,000"]]) == "server      a\nx       1,000"


# The page


def test_page_shows_the_results(tmp_path):
    results = json.loads((ROOT / "docs/benchmarks.json").read_text())
    report.write_tables(results, tmp_path)
    page = (ROOT / "docs/benchmarks.rst").read_text()
    for table in tmp_path.iterdir():
        assert table.read_text() == (ROOT / "docs" / table.name).read_text()
        assert f":file: {table.name}" in page


def test_page_names_every_work():
    page = (ROOT / "docs/benchmarks.rst").read_text()
    assert re.findall(r"(?m)^``(\w+)``$", page) == list(measure.WORKS)


def test_every_peer_is_in_the_requirements():
    listed = (ROOT / "benchmarks/requirements.txt").read_text().splitlines()
    distributions = {server.distribution for server in measure.SERVERS.values()}
    assert distributions - {None} <= set(listed)


# The real thing


@pytest.fixture
def tools():
    """What the load generator is built with; the test is skipped without it."""
    needs("gcc")
    if missing := measure.missing_tools():
        if "TESTS_REQUIRE_ALL" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)


def test_check(tools, tmp_path):
    file = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "--check"]
    result = subprocess.run(
        [*command, "--only", "ours", "--work", "b,e", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(file.read_text())["rows"]
    assert [(row["server"], row["work"]) for row in found] == [("ours", "b"), ("ours", "e")]
    assert all(0 <= row["others"] <= 1 for row in found)
    assert all(row["value"] > 0 and row["p99_us"] >= row["p50_us"] > 0 for row in found)
    assert "Flask-WebSockets" in result.stdout


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"\x81\x04abcx", "wrong reply: other bytes"),
        (b"\x81\x03abc", "wrong reply: 3 bytes of type 1, not 4 of type 1"),
        (b"\x82\x04abcd", "wrong reply: 4 bytes of type 2, not 4 of type 1"),
        (b"\x81\x04abcd\x81\x04abcd", "a reply came twice"),
        (b"\x88\x02\x03\xf3", "the server closed a connection with 1011 after 0 replies"),
        (b"", "the server ended a connection (end of stream) after 0 replies"),
    ],
)
def test_wrong_replies_are_noticed(tools, reply, error):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_once, args=(listener, reply))
        server.start()
        port = str(listener.getsockname()[1])
        result = subprocess.run(
            [measure.build("load"), "--port", port, "--size", "4"],
            capture_output=True,
            timeout=30,
        )
        server.join(10)
    assert result.returncode == 1
    assert json.loads(result.stdout) == {"error": error}


def answer_once(listener: socket.socket, reply: bytes) -> None:
    """Shake hands with one client, and answer its first message with *reply* and the end."""
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        client.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        client.recv(4096)
        client.sendall(reply)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass

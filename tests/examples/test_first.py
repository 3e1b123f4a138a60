"""The first server and its client, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from programs import free_port
from programs import Program
from programs import ROOT
from programs import TIMEOUT

SERVER = "examples/first/server.py"
CLIENT = "examples/first/client.py"


@pytest.fixture(params=["itself", "flask run"])
def server(request, start) -> Program:
    if request.param == "itself":
        return start(SERVER)
    return start("-m", "flask", "--app", "examples/first/server", "run", "--port", "PORT")


def run_client(port: int, numbers: str) -> tuple[int, str]:
    """Its exit code and output, for what is typed until Ctrl-D."""
    ended = subprocess.run(
        [sys.executable, CLIENT],
        cwd=ROOT,
        env={**os.environ, "PORT": str(port)},
        input=numbers,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    return ended.returncode, ended.stdout


def test_total_runs_on(server):
    assert run_client(server.port, "1\n 2\n") == (
        0,
        "Number: Server records total=1\nNumber: Server records total=3\nNumber: \n",
    )
    assert run_client(server.port, "-3")[1].startswith("Number: Server records total=0\n")
    code, output = server.stop()
    assert code == 0
    assert "Clients: 127.0.0.1:" in output
    assert "Traceback" not in output


def test_what_is_no_number_gets_a_sentence(server):
    assert run_client(server.port, "one\n1.5\n\n7\n") == (
        0,
        3 * "Number: Please send a whole number.\n" + "Number: Server records total=7\nNumber: \n",
    )
    assert "Traceback" not in server.stop()[1]


def test_server_keeps_its_clients_addresses(start, connect):
    server = start(SERVER)
    clients = [connect(server) for _ in range(2)]
    ports = []
    for client in clients:
        client.send("1")
        assert client.recv().startswith("Server records")
        ports.append(client.sock.getsockname()[1])
    code, output = server.stop()
    assert code == 0
    assert output.splitlines()[:2] == [
        f"Clients: 127.0.0.1:{ports[0]}",
        f"Clients: 127.0.0.1:{ports[0]} 127.0.0.1:{ports[1]}",
    ]


def test_client_without_a_server():
    code, output = run_client(free_port(), "1\n")
    assert code == 1
    assert output.startswith("The server is gone: ")
    assert len(output.splitlines()) == 1

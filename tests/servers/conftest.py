"""Fixtures that start each server for real, with the app of the contract."""

from __future__ import annotations

import pathlib
import ssl
import typing as t

import pytest
import trustme
from harness import COMMANDS
from harness import Process
from harness import TLS_COMMANDS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, t.Any]:
    """A certificate for localhost, and the context that trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(folder / "certificate.pem", append=number > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {
        "CERTIFICATE": str(folder / "certificate.pem"),
        "KEY": str(folder / "key.pem"),
        "context": context,
    }


@pytest.fixture
def start(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Process]]:
    """Start a server for one test."""
    started: list[Process] = []

    def start(command: t.Sequence[str], **options: t.Any) -> Process:
        started.append(Process(command, tmp_path / f"log{len(started)}", **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="module", params=[*COMMANDS, *(f"{name}+tls" for name in TLS_COMMANDS)])
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: dict[str, t.Any],
) -> t.Iterator[Process]:
    """Each server in turn."""
    name, _, tls = request.param.partition("+")
    command = (TLS_COMMANDS if tls else COMMANDS)[name]
    process = Process(
        [certificate.get(part, part) for part in command],
        tmp_path_factory.mktemp("log") / "log",
        tls=certificate["context"] if tls else None,
    )
    yield process
    process.stop()


@pytest.fixture
def server(running: Process) -> t.Iterator[Process]:
    """Each server in turn, with its log beginning at this test."""
    running.mark()
    yield running
    assert running.process.poll() is None

"""Fixtures that start each server for real, with the app of the contract."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from harness import Certificate
from harness import COMMANDS
from harness import make_certificate
from harness import Process
from harness import TLS_COMMANDS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


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
    certificate: Certificate,
) -> t.Iterator[Process]:
    """Each server in turn."""
    name, _, tls = request.param.partition("+")
    command = (TLS_COMMANDS if tls else COMMANDS)[name]
    process = Process(
        [certificate.paths.get(part, part) for part in command],
        tmp_path_factory.mktemp("log") / "log",
        tls=certificate.context if tls else None,
    )
    yield process
    process.stop()


@pytest.fixture
def server(running: Process) -> t.Iterator[Process]:
    """Each server in turn, with its log beginning at this test."""
    running.mark()
    yield running
    assert running.process.poll() is None

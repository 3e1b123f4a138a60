"""Fixtures that start an example as its user does, and look at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import typing as t
from pathlib import Path

import pytest
import websocket
from programs import free_port
from programs import Page
from programs import page_url
from programs import poll
from programs import Program
from programs import TIMEOUT


@pytest.fixture
def start() -> t.Iterator[t.Callable[..., Program]]:
    """Start a program; it is ended when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(*command: str, port: int | None = None) -> Program:
            port = port or free_port()
            program = Program(port, [part.replace("PORT", str(port)) for part in command])
            stack.enter_context(program.process)
            stack.callback(program.process.kill)
            return program

        yield start


@pytest.fixture
def connect() -> t.Iterator[t.Callable[..., websocket.WebSocket]]:
    """Connect websocket-client; it is closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def connect(program: Program, path: str = "/") -> websocket.WebSocket:
            client = websocket.WebSocket()
            client.settimeout(TIMEOUT)
            client.connect(f"ws://127.0.0.1:{program.port}{path}")
            stack.callback(client.shutdown)
            return client

        yield connect


@pytest.fixture
def page(tmp_path: Path) -> t.Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("TESTS_REQUIRE_ALL"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        "--remote-debugging-port=0",
        "--remote-allow-origins=*",
        "about:blank",
    ]
    ready = tmp_path / "DevToolsActivePort"
    # A session of its own, so that its children can be ended with it.
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            poll(lambda: ready.exists() and "\n" in ready.read_text(), "Chromium is ready")
            port = ready.read_text().split()[0]
            page = Page(poll(lambda: page_url(port), "Chromium has a page"))
            try:
                yield page
            finally:
                page.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)

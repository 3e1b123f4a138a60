"""The commands of the page about the command line print what it shows."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys

import pytest
from flask import Flask
from pages import blocks
from pages import files
from pages import ROOT

PAGE = ROOT / "docs/cli.rst"


@pytest.fixture
def chat(tmp_path, runtime, monkeypatch) -> Flask:
    """The page's app, in the current folder."""
    (tmp_path / "chat.py").write_text(files(PAGE)["chat.py"])
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("chat", tmp_path / "chat.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "chat", module)
    spec.loader.exec_module(module)
    return module.app


def shown(command: str) -> tuple[list[str], str]:
    """The page's words of a command, and what it prints there."""
    for block in blocks(PAGE):
        if block.language == "console":
            for step in re.split(r"(?m)^\$ ", block.text)[1:]:
                line, _, output = step.partition("\n")
                if f" websockets {command}" in line + "\n":
                    return shlex.split(line.rpartition("websockets ")[2]), output.strip()
    raise AssertionError(f"the page has no {command}")


def printed(app: Flask, words: list[str], input: str = "") -> str:
    result = app.test_cli_runner(catch_exceptions=False).invoke(
        args=["websockets", *words], input=input
    )
    return result.output.strip()


def test_routes(chat):
    words, output = shown("routes")
    assert printed(chat, words) == output


@pytest.mark.parametrize("serve", ["threads"], indirect=True)
def test_connect(chat, serve, monkeypatch):
    port = str(serve(chat).port)
    monkeypatch.setenv("FLASK_RUN_PORT", port)
    words, output = shown("connect websocket")
    said = printed(chat, [*words, "--wait=2"], "ECHO hello\nECHO again\n")
    assert sorted(said.splitlines()) == sorted(output.splitlines())
    words, output = shown("connect chat room=red\n")
    assert printed(chat, words) == output.replace("5000", port)
    words, output = shown("bench")
    pattern = re.sub(r"[\d.,]+", r"[\\d.,]+", re.sub(r"\bm?s\b", "m?s", output))
    said = printed(chat, [*words[: words.index("--seconds")], "--seconds=0.2", *words[-2:]])
    assert re.search(pattern, said), said


@pytest.mark.parametrize("serve", ["threads"], indirect=True)
def test_running_servers(chat, serve):
    server = serve(chat)
    name = chat.config["SESSION_COOKIE_NAME"]
    signed = chat.session_interface.get_signing_serializer(chat).dumps({"name": "Ada"})
    client = server.connect("/chat/red", cookie=f"{name}={signed}")
    client.recv()
    words, output = shown("clients")
    lines = printed(chat, words).splitlines()
    assert lines[0].split() == output.splitlines()[0].split()
    id = lines[2].split()[0]
    words, output = shown("broadcast")
    assert printed(chat, words) == output.replace("2 processes", "1 process")
    assert client.recv() == words[1]
    words, output = shown("close")
    assert printed(chat, [words[0], id, *words[2:]]) == output.replace(words[1], id)
    assert client.recv_close() == (4000, "enough")

"""The chat: rooms, an echo and a progress bar on one page."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

import pytest
import websocket
from programs import Program
from programs import ROOT

CHAT = "examples/chat/app.py"


@pytest.fixture(params=["itself", "flask run"])
def chat(request, start) -> Program:
    if request.param == "itself":
        return start(CHAT)
    return start("-m", "flask", "--app", "examples/chat/app", "run", "--port", "PORT")


def test_chat_page(chat):
    page = chat.get("/?room=tea%20time")
    assert "<h1>Room tea time</h1>" in page
    assert f"ws://127.0.0.1:{chat.port}/chat/tea%20time" in page
    assert "https://" not in page  # no external resources


def test_chat_between_two(chat, connect):
    ada = connect(chat, "/chat/tea?name=Ada")
    assert receive(ada) == {"type": "who", "names": ["Ada"], "text": "Ada is here"}
    assert receive(ada) == {"type": "you", "name": "Ada"}
    stranger = connect(chat, "/chat/coffee")
    assert receive(stranger)["type"] == "who"
    assert receive(stranger)["name"].startswith("guest-")
    bob = connect(chat, "/chat/tea")
    bob.send(json.dumps({"type": "name", "name": "  Bob  "}))
    assert receive(bob)["text"].endswith(" is here")
    guest = receive(bob)["name"]
    assert receive(ada)["names"] == ["Ada", guest]
    assert receive(bob) == receive(ada)
    assert receive(bob) == {"type": "you", "name": "Bob"}
    bob.send(json.dumps({"type": "say", "text": "hello"}))
    assert receive(ada) == {"type": "say", "name": "Bob", "text": "hello"}
    bob.close()
    assert receive(ada) == {"type": "who", "names": ["Ada"], "text": "Bob has left"}
    # The other room has heard nothing of it.
    stranger.send(json.dumps({"type": "say", "text": "alone"}))
    assert receive(stranger)["text"] == "alone"


def test_chat_echo_and_progress(chat, connect):
    client = connect(chat)
    client.send("ECHO a b")
    assert client.recv() == "echo: a b"
    client.send("COUNT 3")
    assert [client.recv() for _ in range(3)] == ["done: 1/3", "done: 2/3", "done: 3/3"]


def test_ctrl_c_ends_the_chat_quietly(start, connect):
    program = start(CHAT)
    client = connect(program, "/chat/tea")
    assert client.recv()
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"


def test_the_tests_of_the_chat_pass():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/chat"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert "6 passed" in done.stdout.splitlines()[-1], done.stdout


def receive(client: websocket.WebSocket) -> t.Any:
    return json.loads(client.recv())


def test_chat_in_a_browser(page, start, connect):
    program = start(CHAT)
    page.open(f"http://127.0.0.1:{program.port}/?room=tea")
    # The server gives a name once the connection is open.
    page.wait("$('state').className === 'open' && $('name').value.startsWith('guest-')")
    page.type("name", "Bob")
    page.wait("$('people').innerText === 'Bob'")
    ada = connect(program, "/chat/tea?name=Ada")
    page.wait("$('people').innerText === 'Ada\\nBob'")
    ada.send(json.dumps({"type": "say", "text": "Is <b>anybody</b> here?"}))
    page.wait("$('log').innerText.includes('Is <b>anybody</b> here?')")

    page.type("text", "I am, by the window.")
    page.wait("document.querySelector('#log .mine')?.innerText.includes('by the window')")
    assert page.value("$('text').value") == ""

    page.type("sound", "hello")
    page.wait("$('echoed').innerText === 'echo: hello'")
    page.value("document.querySelector('#count button').click()")
    page.wait("$('bar').value >= .5")
    page.screenshot("chat")
    page.wait("$('bar').value === 1")

    program.stop()
    page.wait("$('state').innerText.startsWith('disconnected')")
    start(CHAT, port=program.port)
    page.wait("$('state').innerText === 'connected'")
    page.wait("$('people').innerText === 'Bob'")

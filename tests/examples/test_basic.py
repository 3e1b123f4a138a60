"""The basics on one page: patterns, replies, contexts, and views that reach sockets."""

from __future__ import annotations

import contextlib
import re
import typing as t
from urllib.parse import urlencode
from urllib.request import Request
from urllib.request import urlopen

import pytest
import websocket
from programs import Page
from programs import Program
from programs import TIMEOUT

BASIC = "examples/basic/app.py"


@pytest.fixture(params=["itself", "flask run"])
def basic(request, start) -> Program:
    if request.param == "itself":
        return start(BASIC)
    return start("-m", "flask", "--app", "examples/basic/app", "run", "--port", "PORT")


@pytest.fixture
def join() -> t.Iterator[t.Callable[..., websocket.WebSocket]]:
    """Connect with a cookie; it is closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def join(program: Program, cookie: str | None, path: str = "/") -> websocket.WebSocket:
            url = f"ws://127.0.0.1:{program.port}{path}"
            client = websocket.create_connection(url, timeout=TIMEOUT, cookie=cookie)
            stack.callback(client.shutdown)
            return client

        yield join


def visit(program: Program) -> tuple[str, str]:
    """What a new visitor gets: the page, and the cookie."""
    with urlopen(f"http://127.0.0.1:{program.port}/", timeout=TIMEOUT) as response:
        return response.read().decode(), response.headers["Set-Cookie"].partition(";")[0]


def post(program: Program, path: str, text: str, cookie: str = "") -> int:
    url = f"http://127.0.0.1:{program.port}{path}"
    request = Request(url, urlencode({"text": text}).encode(), {"Cookie": cookie})
    with urlopen(request, timeout=TIMEOUT) as response:
        return t.cast(int, response.status)


def replies(client: websocket.WebSocket, message: str) -> list[str | bytes]:
    """All that answers a message: what comes before the answer to another."""
    client.send(message)
    client.send("ECHO that was all")
    received = []
    while (one := client.recv()) != "that was all":
        received.append(one)
    return received


def test_basic_page(basic):
    page, _ = visit(basic)
    assert f'"ws://127.0.0.1:{basic.port}/"' in page
    assert f'"ws://127.0.0.1:{basic.port}/first"' in page
    assert '<span id="in-view">False</span>' in page
    assert not re.search(r"(src|href)=.?https?:", page)  # no external resources
    assert ":root" in basic.get("/static/style.css")


def test_basic_handlers(basic, connect):
    client = connect(basic)
    assert replies(client, "ECHO a b") == ["a b", "ACK"]
    # The ACK of "that was all" comes behind it, so before the next replies.
    assert replies(client, "anything else") == ["ACK", "ACK"]
    assert replies(client, "RETURN nothing") == ["ACK", "ACK"]
    assert replies(client, "RETURN text") == ["ACK", "some text", "ACK"]
    assert replies(client, "RETURN bytes") == ["ACK", b"\x00\x80\xff", "ACK"]
    assert replies(client, "RETURN json") == ["ACK", '{"text":"some text"}\n', "ACK"]
    assert replies(client, "RETURN spam") == ["ACK", "no such thing", "ACK"]
    assert replies(client, "CONTEXT") == ["ACK", "in a handler: True", "ACK"]
    steps = ["work begins", "half of it is done", "work is done"]
    assert replies(client, "WORK") == ["ACK", *steps, "ACK"]
    _, error = replies(client, "RETURN dict")
    assert error.startswith("TypeError: reply() returned dict. Return str, bytes, a Flask")


def test_basic_handlers_with_match_one(basic, connect):
    client = connect(basic, "/first")
    assert replies(client, "ECHO a b") == ["a b"]
    assert replies(client, "anything else") == ["ACK"]
    assert replies(client, "RETURN nothing") == []
    client.send("RETURN dict")
    opcode, data = client.recv_data()
    assert (opcode, data) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xf3")


def test_basic_views(basic, connect, join):
    _, ada = visit(basic)
    _, bob = visit(basic)
    one, two, other = join(basic, ada), join(basic, ada), join(basic, bob)
    stranger = connect(basic)  # who is named in the handshake
    for client in (one, two, other, stranger):
        assert replies(client, "x") == ["ACK"]
        assert client.recv() == "ACK"
    assert post(basic, "/mine", "hello", ada) == 204
    assert post(basic, "/broadcast", "good morning") == 204
    assert [one.recv(), one.recv()] == ["to you: hello", "to all: good morning"]
    assert [two.recv(), two.recv()] == ["to you: hello", "to all: good morning"]
    assert other.recv() == stranger.recv() == "to all: good morning"
    cookie = stranger.getheaders()["set-cookie"].partition(";")[0]
    assert post(basic, "/mine", "welcome", cookie) == 204
    assert stranger.recv() == "to you: welcome"


def test_ctrl_c_ends_the_basics_quietly(start, connect):
    program = start(BASIC)
    assert replies(connect(program), "x") == ["ACK"]
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"


def shows(page: Page, log: str, *texts: str) -> None:
    """Wait until these are the last entries of a log."""
    wanted = "\\n".join(texts)
    page.wait(
        f"Array.from($('{log}').children, (one) => one.textContent)"
        f".slice(-{len(texts)}).join('\\n') === '{wanted}'"
    )


def press(page: Page, text: str) -> None:
    buttons = "Array.from(document.querySelectorAll('button'))"
    page.value(f"{buttons}.find((one) => one.textContent === '{text}').click()")


def test_basic_in_a_browser(page, start, join):
    program = start(BASIC)
    page.open(f"http://127.0.0.1:{program.port}/", height=680)
    page.wait("document.querySelectorAll('[role=status].open').length === 2")
    page.type("text", "ECHO <b>hello</b>")
    shows(page, "all", "ECHO <b>hello</b>", "<b>hello</b>", "ACK")
    shows(page, "first", "ECHO <b>hello</b>", "<b>hello</b>")
    press(page, "bytes")
    shows(page, "all", "RETURN bytes", "bytes: 00 80 ff", "ACK")
    shows(page, "first", "RETURN bytes", "bytes: 00 80 ff")
    press(page, "jsonify")
    shows(page, "all", "RETURN json", '{"text":"some text"}', "ACK")
    shows(page, "first", "RETURN json", '{"text":"some text"}')
    press(page, "None")
    shows(page, "all", "RETURN nothing", "ACK")
    shows(page, "first", "RETURN nothing")
    press(page, "Progress")
    shows(page, "all", "WORK", "work begins", "half of it is done", "work is done", "ACK")
    shows(page, "first", "work is done")
    press(page, "has_socket_context()")
    shows(page, "all", "CONTEXT", "in a handler: True", "ACK")
    shows(page, "first", "CONTEXT", "in a handler: True")
    assert page.value("$('in-view').textContent") == "False"

    # Another visitor, and another tab of this one.
    _, cookie = visit(program)
    other = join(program, cookie)
    cookies = page.call("Network.getCookies")["cookies"]
    tab = join(program, "; ".join(f"{one['name']}={one['value']}" for one in cookies))
    page.type("note", "do not forget")
    shows(page, "all", "to you: do not forget")
    page.type("news", "good morning")
    shows(page, "all", "to you: do not forget", "to all: good morning")
    assert [tab.recv(), tab.recv()] == ["to you: do not forget", "to all: good morning"]
    assert other.recv() == "to all: good morning"
    assert page.value("document.title") == "The basics - Flask-WebSockets"  # still the page

    press(page, "dict")
    page.wait("$('all').lastChild.textContent.startsWith('TypeError: reply() returned dict')")
    shows(page, "first", "RETURN dict", "closed with 1011")
    page.wait("$('first-state').textContent === 'connected'")
    page.screenshot("basic")
    page.open(f"http://127.0.0.1:{program.port}/?narrow", width=375)
    page.wait("document.querySelectorAll('[role=status].open').length === 2")

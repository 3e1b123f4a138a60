"""What WebSockets in Flask were once known not to do, on each server.

Most of it is tested elsewhere: TLS and cookies in the contract, blueprints in
``test_extension.py``, sessions in ``test_context.py``, reloads in
``test_particulars.py``. Here is the rest.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import sys
import textwrap
import typing as t

import pytest
from harness import COMMANDS
from harness import HANDSHAKE
from harness import HERE
from harness import Process

Start = t.Callable[..., Process]

APP = """\
import logging

from flask import Flask, request, session
from flask_websockets import WebSockets, ws

app = Flask(__name__)
app.secret_key = "not a secret"
app.logger.setLevel(logging.INFO)
sockets = WebSockets(app, path="/socket")


@sockets.before_open
def check():
    app.logger.info("before_open of %s", request.path)
    if "fail" in request.args:
        raise ZeroDivisionError("in the handshake")


@sockets.on_open
def enter():
    app.logger.info("on_open")
    if "visitor" in session:
        ws.join(f"visitor:{session['visitor']}")


@sockets.on_message
def echo(message):
    app.logger.warning("on_message %s", message)
    return message


@sockets.on_close
def leave(code):
    app.logger.info("on_close %s", code)


@app.get("/")
def index():
    return "a page"


@app.get("/enter/<visitor>")
def name(visitor):
    session["visitor"] = visitor
    return visitor


@app.get("/tell/<text>")
def tell(text):
    sockets.broadcast(text, to=f"visitor:{session['visitor']}")
    return f"told {len(sockets.clients)}"


@app.get("/fail")
def fail():
    raise ZeroDivisionError("in a view")
"""


def write_app(folder: pathlib.Path) -> None:
    """Put the app where the commands of the contract find it in place of theirs."""
    (folder / "app.py").write_text(APP)
    shutil.copy(HERE / "run.py", folder)


def command_for(name: str, folder: pathlib.Path) -> list[str]:
    return [part.replace(str(HERE), str(folder)) for part in COMMANDS[name]]


@pytest.fixture(scope="module", params=list(COMMANDS))
def running_caveats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> t.Iterator[Process]:
    """Each server in turn, with the app above."""
    folder = tmp_path_factory.mktemp("app")
    write_app(folder)
    process = Process(command_for(request.param, folder), folder / "log", cwd=folder)
    yield process
    process.stop()


@pytest.fixture
def server(running_caveats: Process) -> Process:
    running_caveats.mark()
    return running_caveats


# Logging


def test_what_handlers_log_comes_out_once(server: Process):
    client = server.connect("/socket")
    client.send("hello")
    assert client.recv() == "hello"
    client.close()
    expected = [
        "INFO in app: before_open of /socket",
        "INFO in app: on_open",
        "WARNING in app: on_message hello",
        "INFO in app: on_close 1000",
    ]
    server.wait_for_log(expected[-1])
    assert re.findall(r"(?m)^\[.+\] (\w+ in app: .+)$", server.log()) == expected


def test_a_handshake_is_in_the_access_log_once(server: Process):
    def lines() -> list[str]:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", server.log())  # Werkzeug's has colours
        return re.findall(r'"(GET /(?:socket|nowhere|last).*?)" ([0-9]+)', plain)

    server.connect("/socket?accepted").close()
    # The line comes when the connection is over.
    server.wait_for(lines, "the line of the handshake")
    server.request("/nowhere", HANDSHAKE)
    server.wait_for(lambda: len(lines()) >= 2, "the line of the refusal")
    server.request("/last")
    server.wait_for(lambda: len(lines()) >= 3, "the line of the page")
    assert lines() == [
        ("GET /socket?accepted HTTP/1.1", "101"),
        ("GET /nowhere HTTP/1.1", "404"),
        ("GET /last HTTP/1.1", "404"),
    ]
    assert server.log().count("accepted") == 1


# Sessions: an HTTP view reaches the sockets of who asks


def test_a_view_reaches_the_sockets_of_the_same_visitor(server: Process):
    def enter(visitor: str) -> str:
        head = server.request(f"/enter/{visitor}")[1]
        return re.search(r"(?im)^set-cookie: ([^;]+)", head).group(1)

    ada, bob = enter("ada"), enter("bob")
    # What else a browser sends with its cookies does not matter.
    one = server.connect("/socket", cookie=ada)
    two = server.connect("/socket", cookie=f"theme=dark; {ada}")
    other, stranger = server.connect("/socket", cookie=bob), server.connect("/socket")
    clients = (one, two, other, stranger)
    for client in clients:
        client.send("hello")
        assert client.recv() == "hello"
    assert server.request("/tell/first", f"Cookie: {ada}")[2] == "told 4"
    assert server.request("/tell/second", f"Cookie: {bob}")[2] == "told 4"
    assert [one.recv(), two.recv(), other.recv()] == ["first", "first", "second"]
    for client in clients:
        client.send("that was all")
        assert client.recv() == "that was all"
        client.close()


# The debugger


@pytest.mark.parametrize("name", ["flask-run-debug", "pywsgi-debug"])
def test_the_debugger_disturbs_no_socket(start: Start, tmp_path: pathlib.Path, name: str):
    write_app(tmp_path)
    (tmp_path / "debugged.py").write_text(
        textwrap.dedent("""\
        import sys
        from app import app
        from gevent import pywsgi
        from werkzeug.debug import DebuggedApplication

        app.debug = True
        address = ("127.0.0.1", int(sys.argv[1]))
        pywsgi.WSGIServer(address, DebuggedApplication(app)).serve_forever()
        """)
    )
    command = [sys.executable, str(tmp_path / "debugged.py"), "PORT"]
    server = start(command_for(name, tmp_path) if name in COMMANDS else command, cwd=tmp_path)
    client = server.connect("/socket")
    for path, head in (("/fail", ""), ("/socket?fail", HANDSHAKE)):
        status, _, body = server.request(path, head)
        assert status == 500
        assert "<title>ZeroDivisionError: in " in body
        assert "Werkzeug Debugger" in body
        client.send("still here")
        assert client.recv() == "still here"
    client.close()
    server.wait_for_log("on_close 1000")
    assert server.log().count("Traceback") == 2

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import typing as t

import pytest
from flask import abort
from flask import Flask
from flask import request
from flask import Response
from flask import session
from support import failed_command
from support import run_command
from support import serving
from support import ThreadServer
from support import wait_until

from flask_websockets import control
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.cli import measure

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def app(app: Flask) -> Flask:
    app.config["WEBSOCKETS_CONTROL"] = True
    return app


@pytest.fixture
def serve() -> t.Iterator[t.Callable[[Flask], ThreadServer]]:
    """Start a server for an app; which one it is makes no difference to a command."""
    with serving(ThreadServer) as start:
        yield start


@pytest.fixture
def chat(app: Flask) -> WebSockets:
    """An app with two endpoints, of which one has a variable."""
    plain = WebSockets(app, match_one=True)
    chat = WebSockets(app, path="/chat/<int:room>", endpoint="chat")

    @plain.on_message("bye")
    @chat.on_message("bye")
    def leave() -> t.Iterator[str]:
        yield "bye"
        ws.close()

    @plain.on_message
    def echo(message: str) -> str:
        return message

    @chat.on_open
    def enter(room: int) -> str:
        ws.join(str(room))
        return f"in {room}"

    return chat


# connect


@pytest.fixture
def port(app: Flask, serve: t.Any, chat: WebSockets) -> str:
    """The option that leads to a running server of the app."""
    return f"--port={serve(app).port}"


def test_lines_are_messages_and_replies_are_lines(app: Flask, port: str) -> None:
    result = run_command(app, "connect", port, input='hello\r\n{"a":  1}\n\nbye')
    assert result.stdout == 'hello\n{"a":  1}\n\nbye\n'
    assert (result.stderr, result.exit_code) == ("Closed with 1000 (normal closure).\n", 0)


def test_what_comes_without_being_asked_is_shown(app: Flask, port: str) -> None:
    result = run_command(app, "connect", port, "chat", "room=7", input="bye\n")
    assert (result.stdout, result.exit_code) == ("in 7\nbye\n", 0)


def test_it_ends_when_the_input_has_and_nothing_comes(app: Flask, port: str) -> None:
    result = run_command(app, "connect", port, "--wait=0.1", input="")
    assert (result.stderr, result.exit_code) == ("Closed with 1000 (normal closure).\n", 0)


def test_replies_are_read_while_lines_are_sent(app: Flask, port: str) -> None:
    # More than the system keeps for either side.
    lines = f"{'x' * 500_000}\n" * 20 + "bye\n"
    assert run_command(app, "connect", port, input=lines).stdout == lines


def test_binary_is_hex(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    @sockets.on_message
    def convert(message: str) -> t.Iterator[bytes]:
        yield bytes.fromhex(message)
        if len(message) > 10:
            ws.close()

    result = run_command(
        app, "connect", f"--port={serve(app).port}", input="00ff10\n" + "ab" * 2000
    )
    assert result.stdout == (
        f"binary, 3 bytes: 00 ff 10\nbinary, 2,000 bytes: {' '.join(['ab'] * 2000)}\n"
    )


@pytest.mark.parametrize(
    ("code", "reason", "said", "exit_code"),
    [
        (1000, "", "Closed with 1000 (normal closure).", 0),
        (1001, "later", "Closed with 1001 (going away): later", 0),
        (1008, "too\x1b[31m fast", r"Closed with 1008 (policy violation): too\x1b[31m fast", 3),
        (4001, "", "Closed with 4001.", 3),
    ],
)
def test_the_end_is_told(
    app: Flask, sockets: WebSockets, serve: t.Any, code: int, reason: str, said: str, exit_code: int
) -> None:
    sockets.on_open(lambda: ws.close(code, reason))
    result = run_command(app, "connect", f"--port={serve(app).port}", "--wait=9")
    assert (result.stderr, result.exit_code) == (f"{said}\n", exit_code)


def test_the_handshake_says_what_it_is_told_to(
    app: Flask, sockets: WebSockets, serve: t.Any
) -> None:
    app.config["SESSION_COOKIE_NAME"] = "who"
    seen: dict[str, t.Any] = {}

    @sockets.before_open
    def look() -> None:
        ws.accept(ws.subprotocols[0])
        fields = {name: request.headers.getlist(name) for name in ("Host", "Origin", "X-A", "X-B")}
        seen.update(fields, session=dict(session), plain=request.cookies.get("plain"))
        seen["subprotocols"] = ws.subprotocols

    result = run_command(
        app, "connect", f"--port={serve(app).port}", "--wait=0.1",
        "-H", "X-A: 1", "--header", "X-B:2", "-H", "host: example.org",
        "-H", "Origin: http://example.org", "-H", "Cookie: plain=yes",
        "--subprotocol", "v2", "--subprotocol", "v1", "--login-cookie", '{"user": 7}',
    )  # fmt: skip
    assert (result.exit_code, seen) == (
        0,
        {
            "Host": ["example.org"], "Origin": ["http://example.org"], "X-A": ["1"], "X-B": ["2"],
            "session": {"user": 7}, "plain": "yes", "subprotocols": ("v2", "v1"),
        },
    )  # fmt: skip
    run_command(
        app, "connect", f"--port={serve(app).port}", "--wait=0.1", "--subprotocol", "v1",
        "--login-cookie", "plain=raw",
    )  # fmt: skip
    assert (seen["plain"], seen["session"]) == ("raw", {})


def test_a_refusal_is_told_with_its_reason(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    answers: list[t.Any] = []

    @sockets.before_open
    def refuse() -> t.Any:
        answer = answers.pop()
        return answer if isinstance(answer, Response) else answer()

    server = serve(app)
    url = f"ws://127.0.0.1:{server.port}/"

    def refusal(answer: t.Any) -> str:
        answers.append(answer)
        return failed_command(app, "connect", f"--port={server.port}")

    page = lambda: abort(403, "Not <b>here</b> & not now.")  # noqa: E731
    assert refusal(page) == (
        f"{url} refused the handshake with 403 FORBIDDEN: Not <b>here</b> & not now."
    )
    assert refusal(Response("Only\n for   staff.\n", 401, mimetype="text/plain")) == (
        f"{url} refused the handshake with 401 UNAUTHORIZED: Only for staff."
    )
    assert refusal(Response("\x1b[2J", 400, mimetype="text/plain")) == (
        rf"{url} refused the handshake with 400 BAD REQUEST: \x1b[2J"
    )
    assert refusal(Response("", 500)) == (
        f"{url} refused the handshake with 500 INTERNAL SERVER ERROR."
    )
    assert failed_command(app, "connect", f"--port={server.port}", "/none").startswith(
        f"{url}none refused the handshake with 404 NOT FOUND: The requested URL was not found"
    )


def test_nobody_listens(app: Flask, chat: WebSockets) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        sentence = (
            f"Nothing listens at ws://127.0.0.1:{port}/. Start the server, as flask run --port "
            f"{port} does, or say where it is with --host and --port."
        )
        assert failed_command(app, "connect", f"--port={port}") == sentence
        assert failed_command(app, "bench", f"--port={port}") == sentence


def test_the_server_is_where_flask_run_puts_it(
    app: Flask, chat: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        monkeypatch.setenv("FLASK_RUN_PORT", str(port))
        monkeypatch.setenv("FLASK_RUN_HOST", "0.0.0.0")
        assert f"Nothing listens at ws://127.0.0.1:{port}/." in failed_command(app, "connect")


def test_what_answers_is_no_websocket(app: Flask, chat: WebSockets) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        def answer() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        sentence = failed_command(app, "connect", f"--port={port}")
        thread.join(10)
    assert sentence.startswith(f"ws://127.0.0.1:{port}/ cannot be connected to: ")


def test_without_websocket_client_it_is_told_what_to_install(
    app: Flask, chat: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "websocket", None)
    monkeypatch.delitem(sys.modules, "flask_websockets.cli.client", raising=False)
    sentence = "This command needs websocket-client: pip install 'Flask-WebSockets[client]'"
    assert failed_command(app, "connect") == sentence
    assert failed_command(app, "bench") == sentence


# bench


def test_a_socket_is_measured(app: Flask, port: str) -> None:
    result = run_command(app, "bench", port, "-c", "3", "--seconds=0.2")
    assert result.exit_code == 0
    found = re.fullmatch(
        r"([\d,]+) replies in ([\d.]+) s: ([\d,]+) a second\n"
        r"latency: p50 [\d.]+ ms, p99 [\d.]+ m?s, longest [\d.]+ m?s\n",
        result.stdout,
    )
    assert found is not None, result.stdout
    assert int(found[1].replace(",", "")) >= 3
    assert "3 connections" in result.stderr


def test_what_does_not_answer_cannot_be_measured(
    app: Flask, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_FIRST_REPLY", 0.1)
    assert failed_command(app, "bench", port, "chat", "room=1", "-c1") == (
        "No reply to 'hello' came within 0.1 seconds. Choose a --message that is answered."
    )


def test_what_closes_cannot_be_measured(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    replies: list[str] = []

    @sockets.on_message
    def count(message: str) -> str:
        replies.append(message)
        if len(replies) > 5:
            ws.close(1008, "too fast")
        return message

    result = run_command(app, "bench", f"--port={serve(app).port}", "-c1", "-m", "x")
    assert result.exit_code == 1
    assert re.search(
        r"Error: Closed with 1008 \(policy violation\): too fast 4 replies had come\.\n$",
        result.stderr,
    ), result.stderr
    assert set(replies) == {"x"}


# clients, broadcast, close


def test_running_servers_are_reached(app: Flask, serve: t.Any, chat: WebSockets) -> None:
    server = serve(app)
    client, plain = server.connect("/chat/7"), server.connect("/")
    client.recv()
    wait_until(lambda: control.ask(app, {"command": "clients"})[0][1]["total"] == 2, "both")
    listed = json.loads(run_command(app, "clients", "--json").stdout)
    assert [one["endpoint"] for one in listed] == ["chat", "websocket"]
    assert {one["process"] for one in listed} == {os.getpid()}
    lines = run_command(app, "clients").stdout.splitlines()
    assert lines[0].split() == [
        "ID", "Endpoint", "Path", "Address", "Rooms", "Since", "Latency", "Process",
    ]  # fmt: skip
    id = listed[0]["id"]
    assert re.fullmatch(
        rf"{id}  chat +/chat/7  127\.0\.0\.1  7 +[\d-]{{10}} [\d:]{{8}}  - +{os.getpid()}",
        lines[2],
    ), lines[2]
    assert run_command(app, "broadcast", "hi").stdout == "Sent to 2 connections in 1 process.\n"
    result = run_command(app, "broadcast", "red", "--to", "7", "--to", "8")
    assert result.stdout == "Sent to 1 connection in 1 process.\n"
    result = run_command(app, "broadcast", "end", "--endpoint", "websocket")
    assert result.stdout == "Sent to 1 connection in 1 process.\n"
    assert [client.recv(), client.recv()] == ["hi", "red"]
    assert [plain.recv(), plain.recv()] == ["hi", "end"]
    result = run_command(app, "close", id, "--code=4000", "--reason=enough")
    assert result.stdout == f"Closed {id} with 4000.\n"
    assert client.recv_close() == (4000, "enough")


def test_nobody_is_connected(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    serve(app).connect().close()
    wait_until(lambda: control.ask(app, {"command": "clients"})[0][1]["total"] == 0, "gone")
    lines = run_command(app, "clients").stdout.splitlines()
    assert len(lines) == 2
    assert run_command(app, "clients", "--json").stdout == "[]\n"
    assert run_command(app, "broadcast", "x").stdout == "Sent to 0 connections in 1 process.\n"
    assert failed_command(app, "close", "0123") == "No connection has the ID '0123'."


@pytest.mark.parametrize("arguments", [["clients"], ["broadcast", "x"], ["close", "x"]])
def test_no_server_runs(app: Flask, sockets: WebSockets, arguments: list[str]) -> None:
    assert failed_command(app, *arguments) == (
        "No server of this app was found. One that runs on this machine as the same user is "
        "found from its first connection on, unless WEBSOCKETS_CONTROL is False."
    )


def test_some_processes_do_not_answer(
    app: Flask, sockets: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [(1, {"clients": [], "total": 3}), (2, {"error": "it is tired"})]
    monkeypatch.setattr("flask_websockets.cli.running.ask", lambda app, request: answers)
    result = run_command(app, "clients")
    assert result.exit_code == 1
    assert result.stdout.startswith("ID")
    assert result.stderr == (
        "Error: Process 2 does not answer: it is tired.\n3 more are not listed.\n"
    )
    del answers[0]
    assert run_command(app, "close", "x").stderr == (
        "Error: Process 2 does not answer: it is tired.\nError: No connection has the ID 'x'.\n"
    )


def test_commands_that_cannot_be(
    app: Flask, sockets: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failed_command(app, "broadcast", "x", "--endpoint=y", code=2) == (
        "The app has no socket endpoint 'y'. There are: websocket"
    )
    assert failed_command(app, "close", "x", "--code=1006", code=2).startswith(
        "Close code 1006 may not be sent."
    )
    assert failed_command(app, "broadcast", "x" * control.MAX_REQUEST) == (
        "That is too long: 1,048,576 bytes are the most."
    )
    monkeypatch.delattr(socket, "AF_UNIX")
    assert failed_command(app, "clients") == (
        "This system has no Unix sockets, by which a command reaches a running server."
    )

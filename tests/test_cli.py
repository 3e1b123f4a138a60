from __future__ import annotations

import functools
import json
import os
import re
import socket
import sys
import tempfile
import typing as t

import click
import pytest
from click.testing import Result
from flask import abort
from flask import Blueprint
from flask import Flask
from flask import request
from flask import Response
from flask import session
from support import wait_until

from flask_websockets import control
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.cli import measure
from flask_websockets.cli import show
from flask_websockets.cli import target

HERE = "test_cli.py"


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[None]:
    # Servers of these tests put their control sockets there.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def run(app: Flask, *arguments: str, input: str | None = None, **options: t.Any) -> Result:
    """``flask websockets ...``; what it raises is raised here."""
    return app.test_cli_runner(catch_exceptions=False).invoke(
        args=["websockets", *arguments], input=input, **options
    )


def failure(app: Flask, *arguments: str, code: int = 1) -> str:
    """The sentence that a command fails with."""
    result = run(app, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr.split("Error: ")[-1].strip()


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


# The group


def test_each_command_is_listed(app: Flask) -> None:
    WebSockets(app)
    result = run(app, "--help")
    assert re.findall(r"(?m)^  ([a-z]+)  ", result.stdout) == [
        "bench", "broadcast", "clients", "close", "connect", "routes",
    ]  # fmt: skip
    result = run(app, "no-such-command")
    assert (result.exit_code, "No such command 'no-such-command'" in result.stderr) == (2, True)


def test_a_command_of_the_app_keeps_the_name(app: Flask) -> None:
    @app.cli.command("websockets")
    def mine() -> None:
        click.echo("mine")

    WebSockets(app)
    assert run(app).stdout == "mine\n"


def test_commands_of_flask_still_work(app: Flask) -> None:
    WebSockets(app, path="/<name>")
    runner = app.test_cli_runner()
    from flask.cli import FlaskGroup

    result = runner.invoke(FlaskGroup(create_app=lambda: app), ["routes"])
    assert result.exit_code == 0
    assert re.search(r"(?m)^websocket +/<name> *$", result.stdout)
    result = runner.invoke(FlaskGroup(create_app=lambda: app), ["websockets", "routes"])
    assert result.exit_code == 0
    assert "/<name>" in result.stdout


# routes


def line_of(function: t.Any) -> int:
    return int(function.__code__.co_firstlineno)


def test_routes_are_a_table(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(__file__))
    sockets = WebSockets(app)
    blueprint = Blueprint("staff", "staff", url_prefix="/staff")
    staff = WebSockets(blueprint, path="/<int:room>", endpoint="chat", match_one=True)

    def hook() -> None: ...
    def after(reply: t.Any) -> t.Any: ...
    def again(reply: t.Any) -> t.Any: ...
    def anything(message: t.Any) -> None: ...
    def echo(message: str, text: str) -> None: ...
    def loop(ws: t.Any) -> None: ...
    def wrong(error: ValueError) -> None: ...

    for name in ("on_close", "before_close", "before_message", "on_open", "before_open"):
        getattr(sockets, name)(hook)
    sockets.after_message(after)
    sockets.after_message(again)
    sockets.on_message(anything)
    sockets.on_json(anything)
    sockets.on_message(r"^ECHO (?P<text>\w+)")(echo)
    sockets.on_json(type="say", n=1)(anything)
    sockets.errorhandler(ValueError)(wrong)
    sockets.route("/loop")(loop)
    staff.on_message("x")(anything)
    app.register_blueprint(blueprint)

    rows = [
        ("websocket", "/", "before_open", hook),
        ("", "", "on_open", hook),
        ("", "", "before_message", hook),
        ("", "", r"1. on_message(r'^ECHO (?P<text>\w+)')", echo),
        ("", "", "2. on_json(type='say', n=1)", anything),
        ("", "", "3. on_message", anything),
        ("", "", "4. on_json", anything),
        ("", "", "after_message", again),
        ("", "", "after_message", after),
        ("", "", "errorhandler(ValueError)", wrong),
        ("", "", "before_close", hook),
        ("", "", "on_close", hook),
        ("loop", "/loop", "before_open", hook),
        ("", "", "on_open", hook),
        ("", "", "route", loop),
        ("", "", "after_message", again),
        ("", "", "after_message", after),
        ("", "", "errorhandler(ValueError)", wrong),
        ("", "", "before_close", hook),
        ("", "", "on_close", hook),
        ("staff.chat", "/staff/<int:room>", "1. on_message('x')", anything),
    ]
    head = ["Endpoint", "Rule", "Registered by", "Function", "Defined at"]
    result = run(app, "routes")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert lines[0] == head
    assert all(set(dashes) == {"-"} for dashes in lines[1])
    prefix = "test_routes_are_a_table.<locals>."
    assert lines[2:-1] == [
        [*([endpoint, rule] if endpoint else [""]), registered, prefix + function.__name__,
         f"{HERE}:{line_of(function)}"]
        for endpoint, rule, registered, function in rows
    ]  # fmt: skip
    assert lines[-1] == ["", "(match_one: the first that hears a message)"]


def test_routes_are_json(app: Flask) -> None:
    chat = WebSockets(app, path="/<room>", endpoint="chat", match_one=True)

    def say(message: str) -> None: ...

    chat.on_open(lambda: None)
    chat.on_message("SAY")(say)
    [route] = json.loads(run(app, "routes", "--json").stdout)
    opened, said = route.pop("handlers")
    assert route == {
        "endpoint": "chat", "rule": "/<room>", "host": None, "subdomain": None,
        "match_one": True,
    }  # fmt: skip
    assert opened["registered"] == "on_open"
    assert opened["place"] is None
    assert said == {
        "registered": "on_message('SAY')",
        "function": "test_routes_are_json.<locals>.say",
        "file": __file__,
        "line": line_of(say),
        "place": 1,
    }


def test_routes_of_an_app_without_rules(app: Flask) -> None:
    WebSockets(app, path=None)
    assert run(app, "routes").stdout == "No sockets were registered.\n"
    assert run(app, "routes", "--json").stdout == "[]\n"


def test_handlers_that_are_no_plain_functions_are_found(app: Flask) -> None:
    sockets = WebSockets(app)

    class Callable:
        def __call__(self, message: str) -> None: ...

    def plain(message: str, suffix: str = "") -> None: ...

    @functools.wraps(plain)
    def wrapped(*arguments: t.Any, **options: t.Any) -> None: ...

    for function in (Callable(), functools.partial(plain, suffix="!"), wrapped, print):
        sockets.on_message(function)
    [route] = json.loads(run(app, "routes", "--json").stdout)
    assert [(one["file"], one["line"]) for one in route["handlers"]] == [
        (__file__, line_of(Callable.__call__)),
        (__file__, line_of(plain)),
        (__file__, line_of(plain)),
        (None, None),
    ]
    assert run(app, "routes").stdout.rstrip().endswith("?")


@pytest.mark.parametrize(
    ("pattern", "flags", "described"),
    [
        ("a", 0, "on_message('a')"),
        (r"\d", 0, r"on_message(r'\d')"),
        (rb"\x01", 0, r"on_message(rb'\x01')"),
        (b"\x01", 0, r"on_message(b'\x01')"),
        ("it's", 0, """on_message("it's")"""),
        ("a\nb", 0, r"on_message('a\nb')"),
        ("\\d\n", 0, r"on_message('\\d\n')"),
        (r"\"'", 0, r"""on_message('\\"\'')"""),
        ("a", re.IGNORECASE, "on_message('a', re.IGNORECASE)"),
        ("a", re.IGNORECASE | re.DOTALL, "on_message('a', re.IGNORECASE|re.DOTALL)"),
    ],
)
def test_a_pattern_is_shown_as_it_is_written(
    app: Flask, pattern: str | bytes, flags: int, described: str
) -> None:
    WebSockets(app).on_message(pattern, flags)(lambda message: None)
    [route] = json.loads(run(app, "routes", "--json").stdout)
    assert route["handlers"][0]["registered"] == described


# Where to connect to


@pytest.mark.parametrize(
    ("named", "values", "url"),
    [
        (None, {}, "ws://host:1/"),
        ("websocket", {}, "ws://host:1/"),
        ("websocket", {"name": "Ada L"}, "ws://host:1/?name=Ada+L"),
        ("chat", {"room": "7"}, "ws://host:1/chat/7"),
        ("chat", {"room": "7", "name": "Ada"}, "ws://host:1/chat/7?name=Ada"),
        ("/chat/<int:room>", {"room": "7"}, "ws://host:1/chat/7"),
        ("/chat/7", {}, "ws://host:1/chat/7"),
        ("/chat/7?a=b", {}, "ws://host:1/chat/7?a=b"),
        ("/nowhere", {"a": "b"}, "ws://host:1/nowhere?a=b"),
        ("ws://other/x", {}, "ws://other/x"),
        ("https://other/x?y", {}, "wss://other/x?y"),
    ],
)
def test_a_target_is_found(
    app: Flask, chat: WebSockets, named: str | None, values: dict[str, str], url: str
) -> None:
    assert target.resolve(app, named, values, "host:1") == url


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "The app has no socket endpoint 'nothing'. There are: "
         "chat (/chat/<int:room>), websocket (/)"),
        (["chat"], "The rule of 'chat' is /chat/<int:room>: say its variables too, room=..."),
        (["chat", "room=red"], "That fits no rule of 'chat': invalid literal for int() with "
         "base 10: 'red'."),
        (["chat", "7"], "A variable of the rule is NAME=VALUE, not '7'."),
        (["ftp://x"], "A socket's URL begins with ws:// or wss://, not ftp://."),
        (["ws://x/", "a=b"], "NAME=VALUE is for endpoints and rules: write the URL in full."),
        (["-H", "X"], "A field is 'NAME: VALUE', not 'X'."),
        (["-H", "X: a\r\nY: b"], r"A field is 'NAME: VALUE', not 'X: a\r\nY: b'."),
        (["--login-cookie", "x"], "--login-cookie is NAME=VALUE or a JSON object, not 'x'. The "
         "session's name is 'session'."),
        (["--login-cookie", "{"], "The JSON of --login-cookie is wrong: Expecting property name "
         "enclosed in double quotes: line 1 column 2 (char 1)."),
    ],
)  # fmt: skip
def test_a_target_that_cannot_be_is_a_sentence(
    app: Flask, chat: WebSockets, arguments: list[str], sentence: str
) -> None:
    assert failure(app, "connect", *arguments, code=2) == sentence


def test_an_app_with_several_sockets_or_none(app: Flask) -> None:
    WebSockets(app, path=None)
    sentence = "Say which socket is meant. It has none at all."
    assert failure(app, "connect", code=2) == sentence
    WebSockets(app, path="/only", endpoint="only")
    assert target.resolve(app, None, {}, "host:1") == "ws://host:1/only"
    WebSockets(app, path="/more", endpoint="more")
    sentence = "Say which socket is meant. There are: more (/more), only (/only)"
    assert failure(app, "connect", code=2) == sentence


def test_no_session_is_signed_without_a_key(app: Flask) -> None:
    WebSockets(app)
    app.secret_key = None
    assert failure(app, "connect", "--login-cookie", "{}", code=2) == (
        "No session can be signed: the app has no SECRET_KEY, or keeps its sessions somewhere "
        "else than in the cookie."
    )


# connect


@pytest.fixture
def port(app: Flask, serve: t.Callable[[Flask], t.Any], chat: WebSockets) -> str:
    """The option that leads to a running server of the app."""
    return f"--port={serve(app).port}"


def test_lines_are_messages_and_replies_are_lines(app: Flask, port: str) -> None:
    result = run(app, "connect", port, input='hello\r\n{"a":  1}\n\nbye')
    assert result.stdout == 'hello\n{"a":  1}\n\nbye\n'
    assert (result.stderr, result.exit_code) == ("Closed with 1000 (normal closure).\n", 0)


def test_what_comes_without_being_asked_is_shown(app: Flask, port: str) -> None:
    result = run(app, "connect", port, "chat", "room=7", input="bye\n")
    assert (result.stdout, result.exit_code) == ("in 7\nbye\n", 0)


def test_it_ends_when_the_input_has_and_nothing_comes(app: Flask, port: str) -> None:
    result = run(app, "connect", port, "--wait=0.1", input="")
    assert (result.stderr, result.exit_code) == ("Closed with 1000 (normal closure).\n", 0)


@pytest.mark.parametrize("serve", ["threads"], indirect=True)
def test_replies_are_read_while_lines_are_sent(app: Flask, port: str) -> None:
    # More than the system keeps for either side.
    lines = f"{'x' * 500_000}\n" * 20 + "bye\n"
    assert run(app, "connect", port, input=lines).stdout == lines


def test_binary_is_hex(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    @sockets.on_message
    def convert(message: str) -> t.Iterator[bytes]:
        yield bytes.fromhex(message)
        if len(message) > 10:
            ws.close()

    result = run(app, "connect", f"--port={serve(app).port}", input="00ff10\n" + "ab" * 2000)
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
    result = run(app, "connect", f"--port={serve(app).port}", "--wait=9")
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

    result = run(
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
    run(
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
        return failure(app, "connect", f"--port={server.port}")

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
    assert failure(app, "connect", f"--port={server.port}", "/none").startswith(
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
        assert failure(app, "connect", f"--port={port}") == sentence
        assert failure(app, "bench", f"--port={port}") == sentence


def test_the_server_is_where_flask_run_puts_it(
    app: Flask, chat: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        monkeypatch.setenv("FLASK_RUN_PORT", str(port))
        monkeypatch.setenv("FLASK_RUN_HOST", "0.0.0.0")
        assert f"Nothing listens at ws://127.0.0.1:{port}/." in failure(app, "connect")


def test_what_answers_is_no_websocket(app: Flask, chat: WebSockets) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        import threading

        def answer() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        sentence = failure(app, "connect", f"--port={port}")
        thread.join(10)
    assert sentence.startswith(f"ws://127.0.0.1:{port}/ cannot be connected to: ")


def test_without_websocket_client_it_is_told_what_to_install(
    app: Flask, chat: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "websocket", None)
    monkeypatch.delitem(sys.modules, "flask_websockets.cli.client", raising=False)
    sentence = "This command needs websocket-client: pip install 'Flask-WebSockets[client]'"
    assert failure(app, "connect") == sentence
    assert failure(app, "bench") == sentence


# bench


def test_a_socket_is_measured(app: Flask, port: str) -> None:
    result = run(app, "bench", port, "-c", "3", "--seconds=0.2")
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
    assert failure(app, "bench", port, "chat", "room=1", "-c1") == (
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

    result = run(app, "bench", f"--port={serve(app).port}", "-c1", "-m", "x")
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
    listed = json.loads(run(app, "clients", "--json").stdout)
    assert [one["endpoint"] for one in listed] == ["chat", "websocket"]
    assert {one["process"] for one in listed} == {os.getpid()}
    lines = run(app, "clients").stdout.splitlines()
    assert lines[0].split() == [
        "ID", "Endpoint", "Path", "Address", "Rooms", "Since", "Latency", "Process",
    ]  # fmt: skip
    id = listed[0]["id"]
    assert re.fullmatch(
        rf"{id}  chat +/chat/7  127\.0\.0\.1  7 +[\d-]{{10}} [\d:]{{8}}  - +{os.getpid()}",
        lines[2],
    ), lines[2]
    assert run(app, "broadcast", "hi").stdout == "Sent to 2 connections in 1 process.\n"
    result = run(app, "broadcast", "red", "--to", "7", "--to", "8")
    assert result.stdout == "Sent to 1 connection in 1 process.\n"
    result = run(app, "broadcast", "end", "--endpoint", "websocket")
    assert result.stdout == "Sent to 1 connection in 1 process.\n"
    assert [client.recv(), client.recv()] == ["hi", "red"]
    assert [plain.recv(), plain.recv()] == ["hi", "end"]
    result = run(app, "close", id, "--code=4000", "--reason=enough")
    assert result.stdout == f"Closed {id} with 4000.\n"
    assert client.recv_close() == (4000, "enough")


def test_nobody_is_connected(app: Flask, sockets: WebSockets, serve: t.Any) -> None:
    serve(app).connect().close()
    wait_until(lambda: control.ask(app, {"command": "clients"})[0][1]["total"] == 0, "gone")
    lines = run(app, "clients").stdout.splitlines()
    assert len(lines) == 2
    assert run(app, "clients", "--json").stdout == "[]\n"
    assert run(app, "broadcast", "x").stdout == "Sent to 0 connections in 1 process.\n"
    assert failure(app, "close", "0123") == "No connection has the ID '0123'."


@pytest.mark.parametrize("arguments", [["clients"], ["broadcast", "x"], ["close", "x"]])
def test_no_server_runs(app: Flask, sockets: WebSockets, arguments: list[str]) -> None:
    assert failure(app, *arguments) == (
        "No server of this app was found. One that runs on this machine as the same user is "
        "found from its first connection on, unless WEBSOCKETS_CONTROL is False."
    )


def test_some_processes_do_not_answer(
    app: Flask, sockets: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [(1, {"clients": [], "total": 3}), (2, {"error": "it is tired"})]
    monkeypatch.setattr("flask_websockets.cli.running.ask", lambda app, request: answers)
    result = run(app, "clients")
    assert result.exit_code == 1
    assert result.stdout.startswith("ID")
    assert result.stderr == (
        "Error: Process 2 does not answer: it is tired.\n3 more are not listed.\n"
    )
    del answers[0]
    assert run(app, "close", "x").stderr == (
        "Error: Process 2 does not answer: it is tired.\nError: No connection has the ID 'x'.\n"
    )


def test_commands_that_cannot_be(
    app: Flask, sockets: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure(app, "broadcast", "x", "--endpoint=y", code=2) == (
        "The app has no socket endpoint 'y'. There are: websocket"
    )
    assert failure(app, "close", "x", "--code=1006", code=2).startswith(
        "Close code 1006 may not be sent."
    )
    assert failure(app, "broadcast", "x" * control.MAX_REQUEST) == (
        "That is too long: 1,048,576 bytes are the most."
    )
    monkeypatch.delattr(socket, "AF_UNIX")
    assert failure(app, "clients") == (
        "This system has no Unix sockets, by which a command reaches a running server."
    )


# What is shown


def test_json_is_pretty_and_coloured() -> None:
    text = '{"a": [1, -2.5e3, true, null, "x: \\"y\\" 3"], "b\\u001b": {}}'
    shown = show.message(text, True)
    assert click.unstyle(shown) == (
        '{\n  "a": [\n    1,\n    -2500.0,\n    true,\n    null,\n    "x: \\"y\\" 3"\n  ],\n'
        '  "b\\u001b": {}\n}'
    )
    for styled in (
        click.style('"a"', fg="blue"), click.style("1", fg="cyan"),
        click.style("-2500.0", fg="cyan"), click.style("true", fg="magenta"),
        click.style('"x: \\"y\\" 3"', fg="green"),
    ):  # fmt: skip
        assert styled in shown
    assert show.message(text, False) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", "hello"),
        ("12", "12"),
        ('"x"', '"x"'),
        ("{", "{"),
        ("[" * 100_000, "[" * 100_000),
        ("a\x1b]0;title\x07\tb\r\x9b", r"a\x1b]0;title\x07" + "\tb" + r"\x0d\x9b"),
        ('["\x9b"]', None),
    ],
)
def test_other_text_stays_as_it_is_but_controls_no_terminal(text: str, shown: str | None) -> None:
    if shown is None:
        assert "\x9b" not in show.message(text, True)
    else:
        assert show.message(text, True) == shown
    assert show.message(text, False) == text


def test_binary_is_cut_in_a_terminal_only() -> None:
    data = bytes(range(256)) * 5
    assert show.message(b"", True) == "binary, 0 bytes:"
    assert show.message(data, True) == (
        f"binary, 1,280 bytes: {data[:1024].hex(' ')} ... and 256 more"
    )
    assert show.message(data, False) == f"binary, 1,280 bytes: {data.hex(' ')}"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.00012345, "0.123 ms"), (0.0123, "12.3 ms"), (1.5, "1.50 s")]
)
def test_times(seconds: float, shown: str) -> None:
    assert show.milliseconds(seconds) == shown


def test_colours_can_be_switched_off(
    app: Flask, sockets: WebSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.cli.commands["websockets"].command("red")  # type: ignore[attr-defined]
    def red() -> None:
        click.secho("red", fg="red")

    assert run(app, "red", color=True).stdout == click.style("red", fg="red") + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(app, "red", color=True).stdout == "red\n"

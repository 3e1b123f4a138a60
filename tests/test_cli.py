from __future__ import annotations

import functools
import json
import os
import re
import typing as t
from dataclasses import dataclass

import click
import pytest
from flask import Blueprint
from flask import Flask
from flask.cli import FlaskGroup
from support import failed_command
from support import run_command

from flask_websockets import WebSockets
from flask_websockets.cli import show
from flask_websockets.cli import target

HERE = "test_cli.py"


@pytest.fixture
def chat(app: Flask) -> WebSockets:
    """An app with two endpoints, of which one has a variable."""
    WebSockets(app)
    return WebSockets(app, path="/chat/<int:room>", endpoint="chat")


# The group


def test_each_command_is_listed(app: Flask) -> None:
    WebSockets(app)
    result = run_command(app, "--help")
    assert re.findall(r"(?m)^  ([a-z]+)  ", result.stdout) == [
        "bench", "broadcast", "clients", "close", "connect", "routes",
    ]  # fmt: skip
    result = run_command(app, "no-such-command")
    assert (result.exit_code, "No such command 'no-such-command'" in result.stderr) == (2, True)


def test_a_command_of_the_app_keeps_the_name(app: Flask) -> None:
    @app.cli.command("websockets")
    def mine() -> None:
        click.echo("mine")

    WebSockets(app)
    assert run_command(app).stdout == "mine\n"


def test_commands_of_flask_still_work(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    # Flask sets it for good, and an app.run() that inherits it does nothing.
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    WebSockets(app, path="/<name>")
    runner = app.test_cli_runner()
    result = runner.invoke(FlaskGroup(create_app=lambda: app), ["routes"])
    assert result.exit_code == 0
    assert re.search(r"(?m)^websocket +/<name> *$", result.stdout)
    result = runner.invoke(FlaskGroup(create_app=lambda: app), ["websockets", "routes"])
    assert result.exit_code == 0
    assert "/<name>" in result.stdout


# routes


def line_of(function: t.Any) -> int:
    return int(function.__code__.co_firstlineno)


@dataclass
class Move:
    x: int


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
    sockets.on_json(Move)(anything)
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
        ("", "", "3. on_json(Move)", anything),
        ("", "", "4. on_message", anything),
        ("", "", "5. on_json", anything),
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
    result = run_command(app, "routes")
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
    [route] = json.loads(run_command(app, "routes", "--json").stdout)
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
    assert run_command(app, "routes").stdout == "No sockets were registered.\n"
    assert run_command(app, "routes", "--json").stdout == "[]\n"


def test_handlers_that_are_no_plain_functions_are_found(app: Flask) -> None:
    sockets = WebSockets(app)

    class Callable:
        def __call__(self, message: str) -> None: ...

    def plain(message: str, suffix: str = "") -> None: ...

    @functools.wraps(plain)
    def wrapped(*arguments: t.Any, **options: t.Any) -> None: ...

    for function in (Callable(), functools.partial(plain, suffix="!"), wrapped, print):
        sockets.on_message(function)
    [route] = json.loads(run_command(app, "routes", "--json").stdout)
    assert [(one["file"], one["line"]) for one in route["handlers"]] == [
        (__file__, line_of(Callable.__call__)),
        (__file__, line_of(plain)),
        (__file__, line_of(plain)),
        (None, None),
    ]
    assert run_command(app, "routes").stdout.rstrip().endswith("?")


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
    [route] = json.loads(run_command(app, "routes", "--json").stdout)
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
    assert failed_command(app, "connect", *arguments, code=2) == sentence


def test_an_app_with_several_sockets_or_none(app: Flask) -> None:
    WebSockets(app, path=None)
    sentence = "Say which socket is meant. It has none at all."
    assert failed_command(app, "connect", code=2) == sentence
    WebSockets(app, path="/only", endpoint="only")
    assert target.resolve(app, None, {}, "host:1") == "ws://host:1/only"
    WebSockets(app, path="/more", endpoint="more")
    sentence = "Say which socket is meant. There are: more (/more), only (/only)"
    assert failed_command(app, "connect", code=2) == sentence


def test_no_session_is_signed_without_a_key(app: Flask) -> None:
    WebSockets(app)
    app.secret_key = None
    assert failed_command(app, "connect", "--login-cookie", "{}", code=2) == (
        "No session can be signed: the app has no SECRET_KEY, or keeps its sessions somewhere "
        "else than in the cookie."
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

    assert run_command(app, "red", color=True).stdout == click.style("red", fg="red") + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert run_command(app, "red", color=True).stdout == "red\n"

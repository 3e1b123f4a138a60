"""``WEBSOCKETS_REGEX``: which engine matches, from when on, and what is said about patterns."""

import inspect
import re
import sys
import warnings

import pytest
from flask import Blueprint
from flask import Flask

from flask_websockets import WebSockets

#: For re: with each a more it takes twice as long.
EVIL = "^(a+)+$"
MESSAGE = "a" * 40 + "!"


def make_app(regex: str = "re2") -> Flask:
    app = Flask("tests")
    app.config["WEBSOCKETS_REGEX"] = regex
    return app


def register(sockets: WebSockets) -> None:
    """Patterns for text and binary, in an order that shows."""

    @sockets.on_message(EVIL)
    def evil(message):
        return "evil"

    @sockets.on_message(r"^(?P<word>\w+)( (?P<rest>.*))?$")
    def words(message, word, rest):
        return f"{word}, {rest}"

    @sockets.on_message(rb"(?P<head>[\x80-\xff]+)(?P<all>(?s:.*))")
    def binary(message, **groups):
        return repr(sorted(groups.items()))

    @sockets.on_message(re.compile("^A+", re.IGNORECASE))
    def letters(message):
        return "letters"

    @sockets.on_message
    def everything(message):
        return "all"


def check(client) -> None:
    """RE2 hears as re does, and an evil message does not keep it."""
    for message, replies in {
        MESSAGE: ["letters", "all"],
        "aaa": ["evil", "aaa, None", "letters", "all"],
        "né x\n": ["né, x", "all"],
        "": ["all"],
    }.items():
        client.send(message)
        assert [client.recv() for _ in replies] == replies
    client.send_binary(b"\xe9\xff\n\x00")
    assert client.recv() == repr([("all", b"\n\x00"), ("head", b"\xe9\xff")])
    assert client.recv() == "all"


# The engine


@pytest.mark.parametrize("is_attached_first", [True, False])
def test_re2_matches(serve, is_attached_first):
    app, sockets = make_app(), WebSockets()
    if is_attached_first:
        sockets.init_app(app)
        register(sockets)
    else:
        register(sockets)
        sockets.init_app(app)
    check(serve(app).connect())


def test_re2_matches_on_a_blueprint(serve):
    app, blueprint = make_app(), Blueprint("part", "tests", url_prefix="/part")
    register(WebSockets(blueprint))
    app.register_blueprint(blueprint)
    check(serve(app).connect("/part/"))


@pytest.mark.parametrize("engines", [("re", "re2"), ("re2", "re")])
def test_re2_matches_for_all_apps_once_one_asks_for_it(serve, engines):
    sockets = WebSockets()
    apps = [make_app(engine) for engine in engines]
    for app in apps:
        sockets.init_app(app)
    register(sockets)
    for app in apps:
        check(serve(app).connect())


def test_re_matches_what_re2_cannot(serve):
    app = make_app("re")
    sockets = WebSockets(app)

    @sockets.on_message(r"(?P<quote>['\"]).*(?P=quote)")
    def quoted(message, quote):
        return quote

    client = serve(app).connect()
    client.send("'it'")
    assert client.recv() == "'"


def test_what_re2_cannot_is_refused_at_registration(serve):
    app = make_app()
    sockets = WebSockets(app)

    def twice(message):
        return "twice"

    with pytest.raises(ValueError) as refused:
        sockets.on_message(r"(\w+) \1")(twice)
    assert str(refused.value) == (
        "test_what_re2_cannot_is_refused_at_registration.<locals>.twice() has the pattern "
        r"'(\\w+) \\1', and WEBSOCKETS_REGEX is 're2'. RE2 has no back-references."
    )
    # It was not registered, as what cannot be filled is not, nor asked for again.
    with pytest.raises(TypeError):
        sockets.on_message("(?P<text>a)")(lambda message, other: "never")
    sockets.init_app(make_app())
    sockets.on_message(lambda message: "once")
    client = serve(app).connect()
    client.send("a a")
    assert client.recv() == "once"


def test_what_re2_cannot_is_refused_when_it_is_attached(serve):
    sockets = WebSockets()
    sockets.on_message("a")(lambda message: "a")
    sockets.on_message("(?=b)")(lambda message: "b")
    app = make_app()
    with pytest.raises(ValueError, match="RE2 has no look-around"):
        sockets.init_app(app)
    assert not app.url_map._rules_by_endpoint.get("websocket")
    # Where re does it, it goes on as before.
    other = make_app("re")
    sockets.init_app(other)
    client = serve(other).connect()
    client.send("b")
    assert client.recv() == "b"


def test_without_the_package_the_app_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(RuntimeError, match="the package google-re2 is missing"):
        WebSockets(make_app())
    WebSockets(make_app("re"))


# The warning


def warned_of(function, *args):
    """What *function* warns of: each with its file and line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args)
    assert {one.category for one in caught} <= {UserWarning}
    return [(str(one.message), one.filename, one.lineno) for one in caught]


def hear_evil(sockets):
    @sockets.on_message(EVIL)
    def evil(message):
        return "evil"


LINE = inspect.getsourcelines(hear_evil)[1] + 1
WARNING = (
    "hear_evil.<locals>.evil() has the pattern '^(a+)+$'. With each 'a' more, a message may take "
    "re twice as long. Write it so that a repetition can be read in one way only, or set "
    "WEBSOCKETS_REGEX to 're2'."
)


def test_re_warns_of_a_pattern_that_explodes_at_the_line_that_has_it():
    sockets = WebSockets(make_app("re"))
    assert warned_of(hear_evil, sockets) == [(WARNING, __file__, LINE)]
    # The blame is not on who attaches it elsewhere, and it is said once.
    assert warned_of(sockets.init_app, make_app("re")) == []


def test_before_it_is_attached_nothing_is_known():
    sockets = WebSockets()
    assert warned_of(hear_evil, sockets) == []
    assert warned_of(sockets.init_app, make_app("re")) == [(WARNING, __file__, LINE)]
    assert warned_of(sockets.init_app, make_app("re")) == []


def test_re2_needs_no_warning():
    sockets = WebSockets()
    assert warned_of(hear_evil, sockets) == []
    assert warned_of(sockets.init_app, make_app("re2")) == []
    assert warned_of(hear_evil, sockets) == []
    assert warned_of(sockets.init_app, make_app("re")) == []


def test_a_harmless_pattern_is_not_warned_of():
    sockets = WebSockets(make_app("re"))
    for pattern in (r"^ECHO (?P<text>.*)", r"(\w+,)*", "(ab)+", rb"\d+-\d+"):
        assert warned_of(sockets.on_message(pattern), lambda message: None) == []


def test_a_warning_made_an_error_refuses_the_handler(serve):
    app = make_app("re")
    sockets = WebSockets(app)
    with pytest.raises(UserWarning, match="twice as long"):
        hear_evil(sockets)
    sockets.on_message(lambda message: "all")
    client = serve(app).connect()
    client.send("aaa")
    assert client.recv() == "all"

"""The test client: what users' tests rest on."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import typing as t
from datetime import date

import flask
import gevent
import pytest
from flask import abort
from flask import Blueprint
from flask import Flask
from flask import jsonify
from flask import redirect
from flask import request
from flask import session
from flask.testing import FlaskClient
from flask_login import current_user
from flask_login import FlaskLoginClient
from flask_login import login_required
from flask_login import LoginManager
from flask_login import UserMixin
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client as WerkzeugClient

import flask_websockets
from flask_websockets import ConnectionClosed
from flask_websockets import copy_current_socket_context
from flask_websockets import has_socket_context
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.drivers import memory
from flask_websockets.testing import connect
from flask_websockets.testing import Connection
from flask_websockets.testing import HandshakeRefused


@pytest.fixture
def app(app: Flask) -> Flask:
    app.testing = True
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def echo(sockets: WebSockets) -> WebSockets:
    @sockets.on_message
    def answer(message):
        return message

    return sockets


def messages(connection: Connection) -> list[str | bytes]:
    return list(connection)


# A round trip


def test_the_replies_are_there_when_send_returns(client, echo):
    with connect(client) as socket:
        socket.send("hi")
        assert socket.receive(timeout=0) == "hi"
        socket.send(b"\x00\xff")
        assert socket.receive(timeout=0) == b"\x00\xff"
        socket.send(bytearray(b"ab"))
        socket.send(memoryview(b"cd"))
        assert messages(socket) == [b"ab", b"cd"]
        socket.send("")
        assert socket.receive() == ""


def test_what_is_no_message_is_refused_as_by_ws(client, echo):
    with connect(client) as socket:
        with pytest.raises(TypeError, match=r"not dict\. For JSON, use send_json\(\)\."):
            socket.send({"a": 1})
        socket.receive_nothing()


def test_json_goes_through_the_provider_of_the_app(app, client, sockets):
    @sockets.on_json
    def double(message):
        return {"double": 2 * message["number"], "when": message["when"]}

    with connect(client) as socket:
        socket.send_json({"number": 2, "when": date(2024, 1, 2)})
        assert socket.receive_json() == {"double": 4, "when": "Tue, 02 Jan 2024 00:00:00 GMT"}


def test_handlers_run_in_this_thread_and_in_contexts_of_their_own(app, client, sockets):
    seen = []

    @sockets.on_message
    def look(message):
        seen.append((threading.current_thread(), request.path, has_socket_context()))
        flask.g.here = True

    with app.app_context():
        with connect(client) as socket:
            socket.send("x")
            assert not has_socket_context()
            assert not hasattr(flask.g, "here")
    assert seen == [(threading.main_thread(), "/", True)]


def test_no_socket_and_no_thread_is_used(client, echo, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("not needed")

    monkeypatch.setattr("socket.socket.__init__", fail)
    monkeypatch.setattr("threading.Thread.start", fail)
    with connect(client) as socket:
        socket.send("hi")
        assert socket.receive() == "hi"


def test_hooks_and_every_kind_of_reply(app, client, sockets):
    @sockets.on_open
    def welcome():
        return "welcome"

    @sockets.before_message
    def check(message):
        return "no" if message == "secret" else None

    @sockets.after_message
    def shout(reply):
        return reply.upper() if isinstance(reply, str) else reply

    @sockets.on_message("COUNT")
    def count():
        yield from ("one", "two")

    @sockets.on_message("RESPONSE")
    def respond():
        return jsonify(a=1)

    @sockets.before_close
    def bye():
        return "bye"

    @sockets.on_message("QUIT")
    def leave():
        ws.close(4000, "as you wish")

    with connect(client) as socket:
        assert socket.receive() == "WELCOME"
        for message in ("secret", "COUNT", "RESPONSE", "QUIT"):
            socket.send(message)
        assert messages(socket)[:3] == ["NO", "ONE", "TWO"]
        assert (socket.close_code, socket.close_reason) == (4000, "as you wish")


def test_each_message_has_a_new_g_and_runs_the_teardown_functions(app, client, sockets):
    torn_down = []
    app.teardown_appcontext(lambda error: torn_down.append(error))

    @sockets.on_message
    def look(message):
        flask.g.setdefault("messages", []).append(message)
        return ",".join(flask.g.messages)

    with connect(client) as socket:
        torn_down.clear()
        socket.send("a")
        socket.send("b")
        assert messages(socket) == ["a", "b"]
        assert torn_down == [None, None]


# The handshake


def test_cookies_and_session_are_those_of_the_client(app, client, sockets):
    @app.post("/login")
    def login():
        session["name"] = request.form["name"]
        return ""

    @sockets.before_open
    def count():
        session["opened"] = session.get("opened", 0) + 1

    @sockets.on_message
    def who(message):
        return f"{session['name']} {request.cookies['theme']}"

    client.post("/login", data={"name": "Ada"})
    client.set_cookie("theme", "dark")
    for _ in range(2):
        with connect(client) as socket:
            socket.send("?")
            assert socket.receive() == "Ada dark"
    with client.session_transaction() as now:
        assert now["opened"] == 2


def test_set_cookie_of_a_101_and_of_a_refusal_are_kept(app, client, sockets):
    @sockets.before_open
    def judge():
        if "refuse" in request.args:
            response = app.make_response(("no", 403))
            response.set_cookie("refused", "yes")
            return response

    @app.after_request
    def mark(response):
        response.set_cookie("seen", request.path, path="/")
        return response

    with connect(client, "/"):
        assert client.get_cookie("seen").decoded_value == "/"
    client.delete_cookie("seen")
    with pytest.raises(HandshakeRefused):
        connect(client, "/?refuse")
    assert client.get_cookie("refused").decoded_value == "yes"
    assert client.get_cookie("seen").decoded_value == "/"


def test_flask_login():
    app = Flask("login")  # pytest-flask shares one g between all requests of the fixture's
    app.secret_key = "not a secret"
    sockets = WebSockets(app)

    class User(UserMixin):
        id = "ada"

    login = LoginManager(app)
    login.user_loader(lambda id: User())
    sockets.before_open(login_required(lambda: None))
    sockets.on_message(lambda message: current_user.get_id())
    app.test_client_class = FlaskLoginClient
    with connect(app.test_client(user=User())) as socket:
        socket.send("who?")
        assert socket.receive() == "ada"
    with pytest.raises(HandshakeRefused) as caught:
        connect(app.test_client())
    assert caught.value.response.status_code == 401


def test_a_refusal_has_the_response(app, client, sockets):
    @sockets.before_open
    def refuse():
        if "json" in request.args:
            return jsonify(error="no"), 403, {"X-Why": "because"}
        if "login" in request.args:
            return redirect("/login")
        abort(401, "Log in first.")

    with pytest.raises(HandshakeRefused, match=r"401 UNAUTHORIZED: .*Log in first") as caught:
        connect(client)
    assert caught.value.response.status_code == 401
    assert "Log in first." in caught.value.response.text
    with pytest.raises(HandshakeRefused) as caught:
        connect(client, "/?json")
    assert caught.value.response.json == {"error": "no"}
    assert caught.value.response.headers["X-Why"] == "because"
    with pytest.raises(HandshakeRefused, match="302 FOUND") as caught:
        connect(client, "/", query_string={"login": "1"})
    assert caught.value.response.location == "/login"
    assert not sockets.clients


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/nowhere", {}, 404),
        ("/page", {}, 400),
        ("/", {"Sec-WebSocket-Version": "8"}, 426),
        ("/", {"Sec-WebSocket-Key": "short"}, 400),
        ("/", [("upgrade", "nothing")], 426),
    ],
)
def test_a_handshake_that_is_wrong_is_refused(app, client, sockets, path, headers, status):
    app.add_url_rule("/page", view_func=lambda: "a page")
    with pytest.raises(HandshakeRefused) as caught:
        connect(client, path, headers=headers)
    assert caught.value.response.status_code == status


def test_an_app_without_sockets_refuses(app, client):
    app.add_url_rule("/", view_func=lambda: "a page")
    with pytest.raises(HandshakeRefused, match="400 BAD REQUEST"):
        connect(client)


def test_an_exception_of_the_handshake_comes_out(client, sockets):
    @sockets.before_open
    def fail():
        raise LookupError("in the handshake")

    with pytest.raises(LookupError, match="in the handshake"):
        connect(client)
    assert not sockets.clients


def test_only_flasks_test_client_will_do(app, sockets):
    with pytest.raises(TypeError, match=r"not Flask\. Give it what app\.test_client\(\) returns"):
        connect(app)
    with pytest.raises(TypeError, match="not Client"):
        connect(WerkzeugClient(app))


def test_subprotocols_are_offered_and_one_is_chosen(app, client):
    app.config["WEBSOCKETS_SUBPROTOCOLS"] = ["v2", "v1"]
    sockets = WebSockets(app)
    offered = []
    sockets.on_open(lambda: offered.append(ws.subprotocols))
    with connect(client, subprotocols=["v1", "v0"]) as socket:
        assert socket.subprotocol == "v1"
        assert socket.headers["Sec-WebSocket-Protocol"] == "v1"
    with connect(client) as socket:
        assert socket.subprotocol is None
    assert offered == [("v1", "v0"), ()]


def test_header_fields_of_both_sides(app, client, sockets):
    @app.after_request
    def mark(response):
        response.headers["X-App"] = "yes"
        return response

    sockets.on_message(lambda message: request.headers.get(message, "none"))
    with connect(client, headers={"X-Token": "abc"}, environ_overrides={"HTTP_X_B": "b"}) as socket:
        for name in ("X-Token", "X-B", "Origin", "User-Agent"):
            socket.send(name)
        found = messages(socket)
        assert found[:3] == ["abc", "b", "none"]
        assert found[3].startswith("Werkzeug/")
        assert socket.headers["X-App"] == "yes"
        assert socket.headers["Upgrade"] == "websocket"


def test_the_request_keeps_nothing_of_the_wire(client, sockets):
    sockets.on_open(lambda: ",".join(key for key in request.environ if "websockets" in key))
    with connect(client) as socket:
        assert socket.receive() == ""


def test_environ_base_of_the_client_is_used(client, sockets):
    client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    sockets.on_open(lambda: request.remote_addr)
    with connect(client) as socket:
        assert socket.receive() == "192.0.2.7"


def test_whole_urls(app, client, sockets):
    sockets.on_open(lambda: f"{request.url} {flask.url_for('websocket', _external=True)}")
    for url, here, there in (
        ("ws://example.com/?a=b", "http://example.com/?a=b", "ws://example.com/"),
        ("wss://example.com/", "https://example.com/", "wss://example.com/"),
        ("/?a=b", "http://localhost/?a=b", "ws://localhost/"),
    ):
        with connect(client, url) as socket:
            assert socket.receive() == f"{here} {there}"
    with app.test_request_context("/"):
        url = flask.url_for("websocket", _external=True)
    with connect(client, url) as socket:
        assert socket.receive() == "http://localhost/ ws://localhost/"


def test_base_url(client, sockets):
    sockets.on_open(lambda: f"{request.script_root} {request.host} {request.scheme}")
    with connect(client, "/", base_url="https://example.com:8000/mount") as socket:
        assert socket.receive() == "/mount example.com:8000 https"


def test_subdomains():
    app = Flask("tests", subdomain_matching=True)
    app.config["SERVER_NAME"] = "example.com"
    blueprint = Blueprint("games", "tests", subdomain="<who>")
    sockets = WebSockets(blueprint, path="/play")
    sockets.on_open(lambda who: who)
    app.register_blueprint(blueprint)
    with connect(app.test_client(), "/play", subdomain="ada") as socket:
        assert socket.receive() == "ada"
    with pytest.raises(HandshakeRefused, match="404"):
        connect(app.test_client(), "/play")


def test_blueprints_with_a_prefix(app, client):
    blueprint = Blueprint("games", "tests")
    sockets = WebSockets(blueprint, path="/<int:game>/moves")
    sockets.on_message(lambda message, game: f"{message} in {game}")
    app.register_blueprint(blueprint, url_prefix="/games")
    with connect(client, "/games/7/moves") as socket:
        socket.send("a1")
        assert socket.receive() == "a1 in 7"


def test_middleware_around_the_app_runs(app, client, sockets):
    app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1)
    sockets.on_open(lambda: request.host_url)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com"}
    with connect(client, headers=forwarded) as socket:
        assert socket.receive() == "https://example.com/"


def test_middleware_that_fails_late_leaves_no_connection(app, client, sockets, closes):
    inner = app.wsgi_app

    def outer(environ, start_response):
        inner(environ, start_response)
        raise LookupError("late")

    app.wsgi_app = outer
    with pytest.raises(LookupError, match="late"):
        connect(client)
    assert closes == [(1006, "")]
    assert not sockets.clients


def test_a_client_that_keeps_contexts(app, sockets):
    @sockets.before_open
    def mark():
        session["name"] = "Ada"

    sockets.on_message(lambda message: session["name"])
    with app.test_client() as client:
        with connect(client, "/") as first, connect(client, "/") as second:
            assert session["name"] == "Ada"  # of the handshake, as of any request
            for socket in (first, second):
                socket.send("?")
                assert socket.receive() == "Ada"


# What is expected and does not come


def test_receive_says_that_nothing_came(client, sockets):
    with connect(client) as socket:
        with pytest.raises(AssertionError, match=r"^no message came within 0\.01 s$"):
            socket.receive(timeout=0.01)
        with pytest.raises(AssertionError, match="no message came within 0 s"):
            socket.receive_json(timeout=0)


def test_receive_says_why_the_connection_is_closed(client, sockets):
    sockets.on_message("QUIT")(lambda: ws.close(4000, "as you wish"))
    with connect(client) as socket:
        socket.send("QUIT")
        sentence = "no message came: the connection is closed with code 4000: as you wish"
        with pytest.raises(AssertionError, match=sentence):
            socket.receive()
        with pytest.raises(ConnectionClosed) as caught:
            socket.send("more")
        assert caught.value.code == 4000
        with pytest.raises(ConnectionClosed):
            socket.ping()


def test_receive_json_shows_what_came(client, echo):
    with connect(client) as socket:
        socket.send(b"\x01")
        with pytest.raises(AssertionError, match=r"a binary message came: b'\\x01'"):
            socket.receive_json()
        socket.send("not so")
        with pytest.raises(AssertionError, match=r"other text came: 'not so' \(Expecting value"):
            socket.receive_json()
        socket.send("x" * 1000)
        with pytest.raises(AssertionError, match=r"xxx\.\.\. \(1000 in all\)"):
            socket.receive_json()


def test_receive_nothing(client, echo):
    with connect(client) as socket:
        socket.receive_nothing()
        socket.send("hi")
        with pytest.raises(AssertionError, match="nothing was expected, a message came: 'hi'"):
            socket.receive_nothing()
        assert socket.receive() == "hi"
        socket.receive_nothing(timeout=0.01)
        socket.close(4001, "bye")
        with pytest.raises(AssertionError, match="closed with code 4001: bye"):
            socket.receive_nothing()


def test_messages_before_a_close_can_still_be_received(client, sockets):
    @sockets.on_message
    def last(message):
        ws.send("last")
        ws.close(4000)

    with connect(client) as socket:
        socket.send("x")
        assert socket.close_code == 4000
        assert socket.receive() == "last"
        with pytest.raises(AssertionError, match="closed with code 4000"):
            socket.receive()


# Control frames


def test_ping(client, echo):
    with connect(client) as socket:
        socket.ping()
        socket.ping(b"x" * 125)
        with pytest.raises(ValueError, match="not 126"):
            socket.ping(b"x" * 126)


def test_pings_of_the_server_are_answered(client, sockets):
    @sockets.on_message("PING")
    def ping():
        ws.ping()

    sockets.on_message("LATENCY")(lambda: str(ws.latency is not None))
    with connect(client) as socket:
        for message in ("LATENCY", "PING", "LATENCY"):
            socket.send(message)
        assert messages(socket) == ["False", "True"]


def test_a_test_that_waits_stays_connected(app):
    app.config.update(WEBSOCKETS_PING_INTERVAL=0.02, WEBSOCKETS_PING_TIMEOUT=0.02)
    sockets = WebSockets(app)
    sockets.on_message(lambda message: message)
    with connect(app.test_client()) as socket:
        socket.receive_nothing(timeout=0.1)
        time.sleep(0.1)  # the test itself is slow
        socket.send("hi")
        assert socket.receive() == "hi"


# The end


def test_close_runs_on_close(client, sockets, closes):
    socket = connect(client)
    assert socket.close_code is None
    assert socket.close_reason is None
    assert len(sockets.clients) == 1
    socket.close(4001, "bye")
    assert closes == [(4001, "bye")]
    assert not sockets.clients
    assert (socket.close_code, socket.close_reason) == (4001, "bye")
    socket.close(4002)
    assert socket.close_code == 4001
    assert closes == [(4001, "bye")]


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (3000, 3000), (4999, 4999), (1005, 1005)])
def test_close_codes_of_the_client(client, sockets, closes, code, seen):
    with connect(client) as socket:
        socket.close(code)
    assert closes == [(seen, "")]


@pytest.mark.parametrize("code", [999, 1006, 2000, 5000])
def test_close_codes_that_cannot_be(client, sockets, code):
    with connect(client) as socket:
        with pytest.raises(ValueError, match=f"Close code {code} may not be sent"):
            socket.close(code)
        assert socket.close_code is None


@pytest.mark.parametrize("code", [1000, 1001, 1013, 4000])
def test_close_codes_of_the_server(client, sockets, closes, code):
    sockets.on_message(lambda message: ws.close(code, "reason"))
    with connect(client) as socket:
        socket.send("x")
        assert (socket.close_code, socket.close_reason) == (code, "reason")
    assert closes == [(code, "reason")]


def test_leaving_the_block_closes_with_1000(client, sockets, closes):
    with connect(client):
        assert closes == []
    assert closes == [(1000, "")]


def test_an_error_in_the_block_comes_out_as_it_is(client, sockets, closes):
    @sockets.on_close
    def fail():
        raise LookupError("from on_close")

    with pytest.raises(ZeroDivisionError):
        with connect(client):
            raise ZeroDivisionError
    assert closes == [(1000, "")]


def test_abort_is_1006(client, sockets, closes):
    with connect(client) as socket:
        socket.abort()
        assert closes == [(1006, "")]
        assert (socket.close_code, socket.close_reason) == (1006, "")


def test_who_never_closes_is_told(app, client, sockets, closes):
    socket = connect(client)
    with pytest.warns(ResourceWarning, match="<Connection open> was not closed"):
        del socket
    with connect(client):
        assert closes == [(1006, "")]  # at the latest when another one takes its turn


def test_before_close_runs_where_the_server_closes(app, client, sockets, closes):
    sockets.before_close(lambda: "before")

    @app.post("/kick")
    def kick():
        for connection in sockets.clients:
            connection.close(4003, "kicked")
        return ""

    with connect(client) as socket:
        client.post("/kick")
        assert (socket.close_code, socket.close_reason) == (4003, "kicked")
        assert messages(socket) == ["before"]
        assert closes == [(4003, "kicked")]
        assert not sockets.clients


def test_the_server_closes_at_once(client, sockets, closes):
    sockets.on_open(lambda: ws.close(4004))
    with connect(client) as socket:
        assert socket.close_code == 4004
        assert closes == [(4004, "")]


# Exceptions


def test_an_exception_of_a_handler_comes_out(client, sockets, closes, log):
    @sockets.on_message
    def fail(message):
        raise LookupError(message)

    with connect(client) as socket:
        with pytest.raises(LookupError, match="why"):
            socket.send("why")
        assert closes == [(1011, "")]
        assert (socket.close_code, socket.close_reason) == (1011, "")
        assert not sockets.clients
    assert len(log) == 1


def test_what_an_errorhandler_answers_does_not(client, sockets, closes, log):
    @sockets.on_message
    def fail(message):
        raise LookupError(message)

    sockets.errorhandler(LookupError)(lambda error: f"sorry: {error.args[0]}")
    with connect(client) as socket:
        socket.send("why")
        assert socket.receive() == "sorry: why"
        socket.receive_nothing()
    assert closes == [(1000, "")]
    assert not log


@pytest.mark.parametrize(
    ("config", "comes_out"),
    [
        ({"TESTING": False}, False),
        ({"TESTING": True}, True),
        ({"TESTING": True, "PROPAGATE_EXCEPTIONS": False}, False),
        ({"TESTING": False, "PROPAGATE_EXCEPTIONS": True}, True),
    ],
)
def test_what_decides_whether_it_comes_out(app, client, sockets, log, config, comes_out):
    app.config.update(config)

    @sockets.on_message
    def fail(message):
        raise LookupError(message)

    with connect(client) as socket:
        if comes_out:
            with pytest.raises(LookupError):
                socket.send("x")
        else:
            socket.send("x")
            with pytest.raises(AssertionError, match="closed with code 1011"):
                socket.receive()
        assert socket.close_code == 1011
    assert len(log) == 1


@pytest.mark.parametrize("hook", ["on_open", "before_message", "after_message", "before_close"])
def test_exceptions_of_hooks_come_out(client, echo, closes, log, hook):
    def fail():
        raise LookupError(hook)

    getattr(echo, hook)(fail)
    echo.on_message("QUIT")(lambda: ws.close())
    with pytest.raises(LookupError, match=hook):
        with connect(client) as socket:
            socket.send("QUIT")
    assert len(closes) == 1
    assert not echo.clients


def test_exceptions_of_on_close_come_out_of_close(client, sockets, log):
    @sockets.on_close
    def fail():
        raise LookupError("from on_close")

    socket = connect(client)
    with pytest.raises(LookupError, match="from on_close"):
        socket.close()
    socket.close()
    assert not sockets.clients


def test_exceptions_of_teardown_functions_come_out(app, client, echo, log):
    failing = []

    @app.teardown_appcontext
    def fail(error):
        if failing:
            raise LookupError("from teardown")

    with connect(client) as socket:
        failing.append(1)
        with pytest.raises(LookupError, match="from teardown"):
            socket.send("x")
        failing.clear()


def test_what_is_no_exception_of_a_program_comes_out_too(client, sockets, closes, log):
    @sockets.on_message
    def fail(message):
        pytest.fail("said the handler")

    with pytest.raises(pytest.fail.Exception, match="said the handler"):
        with connect(client) as socket:
            socket.send("x")
    assert closes == [(1011, "")]
    assert not sockets.clients


def test_an_exception_of_another_connection_comes_out(client, sockets, log):
    @sockets.on_message("SPREAD")
    def spread():
        for connection in sockets.clients:
            if connection.id != ws.id:
                connection.close(4000)

    @sockets.on_close
    def fail(code):
        if code == 4000:
            raise LookupError("of the other")

    with connect(client) as one, connect(client) as other:
        with pytest.raises(LookupError, match="of the other"):
            one.send("SPREAD")
        assert other.close_code == 4000
        one.receive_nothing()


def test_an_exception_of_a_view_is_not_taken_for_one_of_a_handler(app, client, echo):
    @app.get("/fail")
    def fail():
        raise LookupError("in a view")

    with connect(client) as socket:
        with pytest.raises(LookupError, match="in a view"):
            client.get("/fail")
        socket.send("hi")
        assert socket.receive() == "hi"


# Several connections


def test_two_clients_hear_each_other(app, sockets):
    @sockets.on_open
    def enter():
        ws.join(request.args["room"])

    @sockets.on_message
    def say(message):
        sockets.broadcast(message, to=request.args["room"], skip=ws)

    @sockets.on_close
    def leave():
        sockets.broadcast("somebody left", to=request.args["room"])

    first, second = app.test_client(), app.test_client()
    with connect(first, "/?room=a") as one, connect(second, "/?room=a") as two:
        with connect(second, "/?room=b") as elsewhere:
            one.send("hello")
            assert two.receive() == "hello"
            for socket in (one, elsewhere):
                socket.receive_nothing()
        one.receive_nothing()
        two.close()
        assert one.receive() == "somebody left"


def test_views_reach_connections(app, client, sockets):
    @app.post("/news")
    def news():
        sockets.broadcast(request.get_data(as_text=True))
        return {"listeners": len(sockets.clients)}

    with connect(client) as one, connect(client) as two:
        assert client.post("/news", data="hot").json == {"listeners": 2}
        assert [one.receive(), two.receive()] == ["hot", "hot"]


def test_who_is_closed_by_another_has_left_when_send_returns(client, sockets):
    @sockets.on_message("KICK")
    def kick():
        for connection in sockets.clients:
            if connection.id != ws.id:
                connection.close(4000)

    @sockets.on_close
    def leave(code):
        sockets.broadcast(f"left with {code}")

    with connect(client) as one, connect(client) as two:
        one.send("KICK")
        assert one.receive(timeout=0) == "left with 4000"
        assert len(sockets.clients) == 1
        assert two.close_code == 4000


def test_a_handler_uses_the_test_client(app, client, sockets):
    other = WebSockets(app, path="/other", endpoint="other")
    other.on_message(lambda message: message[::-1])

    @sockets.on_message
    def ask(message):
        with connect(app.test_client(), "/other") as inner:
            inner.send(message)
            return inner.receive()

    with connect(client) as socket:
        socket.send("abc")
        assert socket.receive() == "cba"


def test_connections_of_two_apps(echo, client):
    app = Flask("other")
    WebSockets(app).on_message(lambda message: "other")
    with connect(client) as one, connect(app.test_client()) as two:
        one.send("x")
        two.send("x")
        assert [one.receive(), two.receive()] == ["x", "other"]


# Loops and streams


def test_a_loop(app, client, closes):
    sockets = WebSockets(app, path=None)
    sockets.on_close(lambda code: closes.append(code))

    @sockets.route("/sum/<int:start>")
    def total(ws, start, clients):
        assert len(clients) == 1
        ws.send(str(start))
        for message in ws:
            start += int(message)
            if start > 9:
                return "enough"
            ws.send(str(start))

    with connect(client, "/sum/1") as socket:
        assert socket.receive() == "1"
        socket.send("2")
        assert socket.receive() == "3"
        socket.send("7")
        assert socket.receive() == "enough"
        assert socket.close_code == 1000
    with connect(client, "/sum/1") as socket:
        socket.close(4001)
    assert closes == [1000, 4001]


def test_a_handler_that_receives(client, sockets):
    @sockets.on_message("NAME")
    def ask():
        ws.send("your name?")
        return f"hello {ws.receive()}"

    with connect(client) as socket:
        socket.send("NAME")
        assert socket.receive() == "your name?"
        socket.receive_nothing()
        socket.send("Ada")
        assert socket.receive() == "hello Ada"


def test_on_open_may_wait_for_the_first_message(client, sockets, closes):
    @sockets.on_open
    def authenticate():
        if ws.receive() != "password":
            ws.close(4001)

    sockets.on_message(lambda message: message)
    with connect(client) as socket:
        socket.send("password")
        socket.send("hi")
        assert messages(socket) == ["hi"]
    with connect(client) as socket:
        socket.send("guess")
        assert socket.close_code == 4001
    with connect(client):
        pass
    assert closes == [(1000, ""), (4001, ""), (1000, "")]


def test_a_loop_that_waits_for_some_time(app, client):
    sockets = WebSockets(app, path=None)

    @sockets.route("/clock")
    def clock(ws):
        ticks = 0
        while ws.receive(timeout=0.01) is None:
            ticks += 1
            ws.send(str(ticks))

    with connect(client, "/clock") as socket:
        assert [socket.receive() for _ in range(3)] == ["1", "2", "3"]
        socket.send("stop")
        assert socket.close_code == 1000


def test_a_stream_without_an_end(client, sockets, monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 0.05)
    ended = []

    @sockets.on_message("STREAM")
    def stream():
        try:
            number = 0
            while True:
                yield str(number)
                number += 1
        finally:
            ended.append(True)

    with connect(client) as socket:
        socket.send("STREAM")
        assert [socket.receive() for _ in range(1000)] == [str(number) for number in range(1000)]
        assert not ended
    assert ended


def test_a_stream_that_sleeps(client, sockets, monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 0.05)

    @sockets.on_message("STREAM")
    def stream():
        number = 0
        while True:
            yield str(number)
            number += 1
            time.sleep(0.02)

    with connect(client) as socket:
        socket.send("STREAM")
        assert [socket.receive() for _ in range(6)] == list("012345")


def test_a_handler_that_takes_long_reaches_others(app, client, sockets, monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 0.02)

    @sockets.on_message
    def work(message):
        time.sleep(0.05)
        sockets.broadcast("to all")
        for connection in sockets.clients:
            connection.send("to each")
        return "done"

    with connect(client) as one, connect(client) as other:
        one.send("go")
        assert [other.receive(), other.receive()] == ["to all", "to each"]
        assert [one.receive() for _ in range(3)] == ["to all", "to each", "done"]
        for socket in (one, other):
            socket.receive_nothing()


def test_a_handler_that_sleeps_keeps_what_comes_meanwhile(client, sockets):
    @sockets.on_message
    def answer(message):
        ws.sleep(0.01)
        return f"slept over {message}"

    with connect(client) as socket:
        socket.send("one")
        socket.send("two")
        assert [socket.receive(), socket.receive()] == ["slept over one", "slept over two"]


def test_a_task_is_told_that_its_connection_closed(client, sockets):
    ended = threading.Event()

    def work(word):
        ws.send(word)
        with pytest.raises(ConnectionClosed, match="code 1000"):
            ws.sleep(60)
        ended.set()

    @sockets.on_message
    def begin(message):
        sockets.spawn(work, message)

    with connect(client) as socket:
        socket.send("at work")
        assert socket.receive() == "at work"
    assert ended.wait(10)


def test_a_loop_that_polls(app, client, monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 0.05)
    sockets = WebSockets(app, path=None)

    @sockets.route("/poll")
    def poll(ws):
        while True:
            message = ws.receive_nowait()
            if message is not None:
                ws.send(message)
            time.sleep(0.01)

    with connect(client, "/poll") as socket:
        socket.send("hi")
        assert socket.receive() == "hi"
        socket.receive_nothing()


def test_a_handler_that_does_not_see_the_end(app, client, monkeypatch):
    monkeypatch.setattr(memory, "PATIENCE", 0.05)
    monkeypatch.setattr(flask_websockets.testing, "_CLOSE_TIMEOUT", 0.2)
    sockets = WebSockets(app, path=None)
    seen = []

    @sockets.route("/deaf")
    def deaf(ws):
        ws.receive()
        try:
            while ws.connected:  # an unread message hides what comes behind it
                ws.send("more")
        except ConnectionClosed as error:
            seen.append(error.code)

    socket = connect(client, "/deaf")
    socket.send("go")
    socket.send("unread")
    with pytest.raises(AssertionError, match=r"has not ended within 0\.2 s: a handler goes"):
        socket.close()
    assert seen
    assert not sockets.clients


# Sizes, and what goes over the wire


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 131072, 131073, 1 << 20])
def test_sizes(client, echo, size):
    with connect(client) as socket:
        for message in ("é" * (size // 2), bytes(range(256)) * (size // 256)):
            socket.send(message)
            assert socket.receive(timeout=0) == message


def test_a_message_over_every_buffer(app):
    app.config["WEBSOCKETS_MAX_MESSAGE_SIZE"] = 8 << 20
    sockets = WebSockets(app)
    sockets.on_message(lambda message: message)
    sockets.on_open(lambda: sockets.broadcast(bytes(4 << 20)))
    with connect(app.test_client()) as socket:
        assert len(socket.receive(timeout=0)) == 4 << 20
        socket.send("x" * (8 << 20))
        assert len(socket.receive(timeout=0)) == 8 << 20


def test_a_message_that_is_too_big(client, echo, closes):
    with connect(client) as socket:
        socket.send(bytes((1 << 20) + 1))
        assert socket.close_code == 1009
        assert "1048576 bytes at most" in socket.close_reason
    assert closes == [(1009, socket.close_reason)]


def test_large_messages_are_fragmented(client, echo, monkeypatch):
    sent = []
    feed = memory.MemoryTransport.feed
    monkeypatch.setattr(
        memory.MemoryTransport, "feed", lambda self, data: (sent.append(data), feed(self, data))
    )
    with connect(client) as socket:
        socket.send(bytes(131073))
        assert socket.receive() == bytes(131073)
        # FIN and opcode, then the mask's bit.
        first, last = sent[0][:2], sent[0][131072 + 14 :][:2]
        assert (first, last) == (b"\x02\xff", b"\x80\x81")
        masks = {sent[0][10:14], sent[0][131072 + 16 : 131072 + 20]}
        assert len(masks) == 2


def test_replies_that_nobody_receives_wait(client, sockets):
    made = []

    @sockets.on_message
    def stream(message):
        for number in range(100):
            made.append(number)
            yield bytes([number]) * 65536

    with connect(client) as socket:
        socket.send("go")
        assert len(made) < 20  # and not 100: the client's buffers are full
        assert [message[0] for message in socket] == list(range(100))
        assert len(made) == 100


def test_who_does_not_receive_is_too_slow(app):
    app.config["WEBSOCKETS_SEND_BUFFER"] = 100_000
    sockets = WebSockets(app)
    closes = []
    sockets.on_close(lambda code, reason: closes.append((code, reason)))
    sockets.on_message(lambda message: sockets.broadcast(message, skip=ws))
    with connect(app.test_client()) as one, connect(app.test_client()) as slow:
        for _ in range(20):
            one.send(bytes(90_000))
        assert closes[-1:] == [(1008, "too slow")]
        assert slow.close_code is None  # what waits for it comes first
        assert len(messages(slow)) < 20
        assert slow.close_code == 1006
        one.receive_nothing()


def test_a_slow_client_misses_messages(app):
    app.config.update(WEBSOCKETS_SEND_BUFFER=100_000, WEBSOCKETS_SLOW_CLIENT="drop")
    sockets = WebSockets(app)
    with connect(app.test_client()) as socket:
        for number in range(20):
            sockets.broadcast(bytes([number]) * 90_000)
        found = [message[0] for message in socket]
        assert found == list(range(len(found)))
        assert 3 < len(found) < 20
        sockets.broadcast("again")
        assert socket.receive() == "again"


@pytest.mark.parametrize("takeover", [True, False])
def test_compression(app, takeover):
    app.config["WEBSOCKETS_COMPRESSION"] = {"context_takeover": takeover, "window_bits": 10}
    sockets = WebSockets(app)
    sockets.on_message(lambda message: message)
    with connect(app.test_client(), compression=True) as socket:
        agreed = socket.headers["Sec-WebSocket-Extensions"]
        assert agreed.startswith("permessage-deflate; ")
        assert ("no_context_takeover" in agreed) is not takeover
        for message in ("hello " * 1000, b"\x00" * 300_000, "", "hello " * 1000):
            socket.send(message)
            assert socket.receive() == message
        sockets.broadcast("to all")
        assert socket.receive() == "to all"
    with connect(app.test_client()) as socket:
        assert "Sec-WebSocket-Extensions" not in socket.headers


def test_compression_is_only_agreed_on_where_the_app_has_it(client, echo):
    with connect(client, compression=True) as socket:
        assert "Sec-WebSocket-Extensions" not in socket.headers
        socket.send("hi")
        assert socket.receive() == "hi"


# Threads and greenlets beside it


def test_threads_broadcast(client, sockets):
    def work(number):
        for index in range(50):
            sockets.broadcast(f"{number} {index}")

    with connect(client) as socket:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        found = [socket.receive(timeout=10) for _ in range(200)]
        for thread in threads:
            thread.join(10)
        for number in range(4):
            own = [message for message in found if message.startswith(f"{number} ")]
            assert own == [f"{number} {index}" for index in range(50)]


def test_a_thread_that_has_ended_has_sent(client, sockets):
    @sockets.on_message
    def work(message):
        @copy_current_socket_context
        def task():
            ws.send(message)

        thread = threading.Thread(target=task)
        thread.start()
        thread.join(10)

    with connect(client) as socket:
        socket.send("hi")
        assert socket.receive(timeout=0) == "hi"


def test_a_thread_receives_in_place_of_its_handler(client, sockets):
    @sockets.on_message("ASK")
    def ask():
        heard = []
        task = copy_current_socket_context(lambda: heard.append(ws.receive(timeout=0.01)))
        thread = threading.Thread(target=task)
        thread.start()
        thread.join(10)
        return f"heard {heard}"

    with connect(client) as socket:
        socket.send("ASK")
        assert socket.receive(timeout=0) == "heard [None]"


def test_receive_waits_for_another_thread(client, sockets):
    with connect(client) as socket:
        timer = threading.Timer(0.05, sockets.broadcast, ["late"])
        timer.start()
        assert socket.receive(timeout=10) == "late"
        timer.join(10)


def test_a_thread_closes_connections(client, sockets, closes):
    with connect(client) as socket:
        (connection,) = sockets.clients
        thread = threading.Thread(target=connection.close, args=(4000, "from a thread"))
        thread.start()
        thread.join(10)
        assert (socket.close_code, socket.close_reason) == (4000, "from a thread")
    assert closes == [(4000, "from a thread")]


def test_a_connection_belongs_to_its_thread(client, echo):
    errors: list[BaseException] = []

    def use(connection):
        try:
            connection.send("x")
        except RuntimeError as error:
            errors.append(error)

    with connect(client) as socket:
        thread = threading.Thread(target=use, args=(socket,))
        thread.start()
        thread.join(10)
        assert "used in the thread that opened it" in str(errors[0])
        socket.receive_nothing()


def test_threads_have_connections_of_their_own(app, echo):
    results: list[t.Any] = []

    def work(number):
        with connect(app.test_client()) as socket:
            for index in range(100):
                socket.send(f"{number} {index}")
            results.append(messages(socket) == [f"{number} {index}" for index in range(100)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [True] * 4
    assert not echo.clients


def test_handlers_that_wait_in_gevent(client, sockets):
    @sockets.on_message(r"SLEEP")
    def sleep():
        gevent.sleep(0.01)
        return "slept"

    with connect(client) as one, connect(client) as two:
        for socket in (one, two):
            socket.send("SLEEP")
            assert socket.receive(timeout=0) == "slept"


def test_a_timeout_of_gevent_ends_a_handlers_wait(client, sockets):
    @sockets.on_message("ASK")
    def ask():
        ws.send("your name?")
        with gevent.Timeout(0.01, False):
            return f"hello {ws.receive()}"
        return "too late"

    with connect(client) as socket:
        for _ in range(2):
            socket.send("ASK")
            assert socket.receive() == "your name?"
            assert socket.receive(timeout=10) == "too late"
        socket.send("ASK")
        assert socket.receive() == "your name?"
        socket.send("Ada")
        assert socket.receive() == "hello Ada"


def test_greenlets_broadcast_while_the_test_waits(client, sockets):
    def feed():
        for number in range(3):
            gevent.sleep(0.01)
            sockets.broadcast(str(number))

    with connect(client) as socket:
        greenlet = gevent.spawn(feed)
        assert [socket.receive(timeout=10) for _ in range(3)] == ["0", "1", "2"]
        greenlet.join(10)


def test_greenlets_of_a_handler_send_later(client, sockets):
    @sockets.on_message
    def work(message):
        @copy_current_socket_context
        def task():
            ws.send(f"{message} is done")

        gevent.spawn_later(0.01, task)
        return "begun"

    with connect(client) as socket:
        socket.send("it")
        assert [socket.receive(), socket.receive(timeout=10)] == ["begun", "it is done"]


def test_in_a_greenlet(app, echo):
    def test(number):
        with connect(app.test_client()) as socket:
            for _ in range(3):
                socket.send(str(number))
                gevent.sleep(0)
                assert socket.receive() == str(number)
        return number

    greenlets = [gevent.spawn(test, number) for number in range(3)]
    gevent.joinall(greenlets, timeout=10)
    assert [greenlet.get() for greenlet in greenlets] == [0, 1, 2]


PATCHED = """
import threading, time, gevent
from flask import Flask
from flask_websockets import WebSockets, ws
from flask_websockets.testing import connect

app = Flask(__name__)
app.testing = True
sockets = WebSockets(app)

@sockets.on_message
def answer(message):
    time.sleep(0.01)
    return message

with connect(app.test_client()) as one, connect(app.test_client()) as two:
    one.send("hi")
    assert one.receive() == "hi"
    thread = threading.Thread(target=sockets.broadcast, args=("to all",))
    thread.start()
    assert [one.receive(5), two.receive(5)] == ["to all", "to all"]
    gevent.spawn_later(0.01, sockets.broadcast, "later")
    assert [one.receive(5), two.receive(5)] == ["later", "later"]
    (first, second) = sockets.clients
    threading.Thread(target=first.close, args=(4000,)).start()
    two.receive_nothing(0.05)
    assert one.close_code == 4000
assert not sockets.clients
print("done")
"""


def test_in_a_monkey_patched_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PATCHED)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gevent.monkey", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# Nothing is left


def test_connections_are_freed(app, echo):
    transports = memory.MemoryTransport

    def count():
        gc.collect()
        return sum(isinstance(one, (transports, Connection)) for one in gc.get_objects())

    before = count()
    for _ in range(10):
        with connect(app.test_client()) as socket:
            socket.send("x")
            assert socket.receive() == "x"
    del socket
    assert count() == before


def test_round_trips_are_counted_right(client, echo):
    # The same as benchmarks/round_trips.py, without the clock.
    with connect(client) as socket:
        for number in range(500):
            socket.send(json.dumps(number))
            assert socket.receive_json() == number

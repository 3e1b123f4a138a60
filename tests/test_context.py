"""What handlers find around them: ws, g, request, session, and their end."""

import threading

import flask_login
import gevent
import pytest
from flask import current_app
from flask import Flask
from flask import g
from flask import has_app_context
from flask import has_request_context
from flask import render_template_string
from flask import request
from flask import session
from flask import url_for
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.pool import QueuePool
from support import wait_until

from flask_websockets import copy_current_socket_context
from flask_websockets import handshake
from flask_websockets import has_socket_context
from flask_websockets import SocketContext
from flask_websockets import WebSocket
from flask_websockets import WebSockets
from flask_websockets import ws


def ask(client, message):
    client.send(message)
    return client.recv()


def wait_for_end(client):
    """Wait for the end of the TCP connection, before which all handlers have run."""
    assert client.sock.recv(1) == b""


def cookie_of(client):
    """The session cookie that came with the 101."""
    return client.headers["set-cookie"].split(";")[0]


# One message


def test_g_is_new_for_each_message(app, sockets, serve):
    @app.before_request
    def before_request():
        g.seen = ["the handshake"]

    @sockets.before_open
    def before_open():
        g.seen.append("before_open")
        ws.state.handshake = g.seen

    @sockets.before_message
    def before_message(message):
        g.setdefault("seen", []).append("before_message")

    @sockets.on_message
    def handler(message):
        g.seen.append(message)
        return " ".join(g.seen)

    client = serve(app).connect()
    assert ask(client, "a") == "before_message a"
    assert ask(client, "b") == "before_message b"
    (connection,) = sockets.clients
    assert connection.state.handshake == ["the handshake", "before_open"]


def test_teardown_functions_run_for_each_message(app, sockets, serve, log):
    calls = []

    @sockets.on_message
    def handler(message):
        if message == "fail":
            raise LookupError("why")
        g.message = message
        return message

    @app.teardown_request
    def teardown_request(error):
        if has_socket_context():
            calls.append(("request", g.get("message"), request.path, repr(error)))

    @app.teardown_appcontext
    def teardown_appcontext(error):
        if has_socket_context():
            calls.append(("app", g.get("message"), repr(error)))

    client = serve(app).connect()
    assert ask(client, "a") == "a"
    assert ask(client, "b") == "b"
    client.send("fail")
    assert client.recv_close() == (1011, "")
    assert calls == [
        ("request", "a", "/", "None"),
        ("app", "a", "None"),
        ("request", "b", "/", "None"),
        ("app", "b", "None"),
        ("request", None, "/", "LookupError('why')"),
        ("app", None, "LookupError('why')"),
    ]


def test_an_error_that_was_answered_is_none_for_teardown_functions(app, sockets, serve):
    errors = []

    @sockets.on_message
    def handler(message):
        raise LookupError

    @sockets.errorhandler(LookupError)
    def handled(error):
        return "handled"

    @app.teardown_request
    def teardown_request(error):
        if has_socket_context():
            errors.append(error)

    client = serve(app).connect()
    assert ask(client, "a") == "handled"
    wait_until(lambda: errors, "the teardown")
    assert errors == [None]


def test_request_functions_do_not_run_for_messages(app, sockets, serve):
    calls = []

    @app.before_request
    def before_request():
        calls.append("before_request")

    @app.after_request
    def after_request(response):
        calls.append("after_request")
        return response

    @sockets.on_message
    def handler(message):
        return " ".join(calls)

    client = serve(app).connect()
    assert ask(client, "a") == "before_request after_request"
    assert ask(client, "b") == "before_request after_request"


def test_request_is_that_of_the_handshake(app, serve):
    sockets = WebSockets(app, path="/<room>/<int:seat>")

    @sockets.on_message
    def handler(message):
        return repr(
            (
                request.path,
                request.args["token"],
                request.headers["X-Test"],
                request.cookies["c"],
                request.endpoint,
                request.view_args,
                request.remote_addr,
                current_app.name,
            )
        )

    client = serve(app).connect("/blue/7?token=t", header={"X-Test": "header"}, cookie="c=d")
    expected = ("/blue/7", "t", "header", "d", "websocket", {"room": "blue", "seat": 7})
    for _ in range(2):
        assert ask(client, "x") == repr((*expected, "127.0.0.1", "tests"))


def test_a_handler_that_changes_g_or_request_in_a_generator(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        g.message = message
        yield "first"
        yield f"{g.message} {request.path}"

    client = serve(app).connect()
    client.send("a")
    assert [client.recv(), client.recv()] == ["first", "a /"]


def test_render_template_string_and_url_for(app, sockets, serve):
    @app.get("/page/<name>")
    def page(name):
        return name

    @app.context_processor
    def more():
        return {"path": request.path}

    @sockets.on_message
    def handler(message):
        yield url_for("page", name=message)
        yield url_for("page", name=message, _external=True)
        yield url_for("websocket")
        yield render_template_string(
            "{{ message }} {{ path }} {{ url_for('page', name='x') }}", message=message
        )

    server = serve(app)
    client = server.connect()
    client.send("<a>")
    # On a ws:// request, Werkzeug gives HTTP routes their scheme.
    assert [client.recv().removeprefix(server.http("")) for _ in range(2)] == ["/page/%3Ca%3E"] * 2
    assert client.recv() == server.url("/")
    rendered = client.recv()
    assert rendered.startswith("&lt;a&gt; / ")
    assert rendered.removesuffix("/page/x").removesuffix(server.http("")) == "&lt;a&gt; / "


def test_nothing_of_flask_is_pushed_between_messages(app, sockets, serve, monkeypatch, log):
    pushed = []

    class Spy(WebSocket):
        def take_in(self, wait):
            pushed.append((has_app_context(), has_request_context(), has_socket_context()))
            super().take_in(wait)

    monkeypatch.setattr(handshake, "WebSocket", Spy)

    @sockets.on_open
    def hello():
        return "hello"

    @sockets.on_message
    def handler(message):
        if message == "fail":
            raise LookupError
        return message

    @sockets.errorhandler(LookupError)
    def handled(error):
        return "handled"

    client = serve(app).connect()
    assert client.recv() == "hello"
    assert ask(client, "a") == "a"
    assert ask(client, "fail") == "handled"
    assert len(pushed) >= 2
    assert set(pushed) == {(False, False, False)}


# ws and has_socket_context


def test_has_socket_context(app, sockets, serve):
    seen = []

    @app.before_request
    def before_request():
        seen.append(("before_request", has_socket_context()))

    @sockets.before_open
    def before_open():
        seen.append(("before_open", has_socket_context()))

    @sockets.on_open
    def on_open():
        seen.append(("on_open", has_socket_context()))

    @sockets.on_message
    def handler(message):
        seen.append(("handler", has_socket_context()))

    @sockets.on_close
    def closed():
        seen.append(("on_close", has_socket_context()))

    @app.get("/view")
    def view():
        return str(has_socket_context())

    client = serve(app).connect()
    client.send("x")
    client.send_close()
    client.recv_close()
    wait_for_end(client)
    assert seen == [
        ("before_request", False),
        ("before_open", True),
        ("on_open", True),
        ("handler", True),
        ("on_close", True),
    ]
    assert app.test_client().get("/view").text == "False"


def test_ws_is_the_connection(app, sockets, serve):
    seen = []

    @sockets.on_message
    def handler(message):
        seen.append((ws.id, ws == next(iter(sockets.clients)), isinstance(ws, WebSocket)))
        return message

    server = serve(app)
    client = server.connect()
    assert ask(client, "x") == "x"
    (connection,) = sockets.clients
    assert seen == [(connection.id, True, True)]


def test_ws_outside_says_what_to_do():
    with pytest.raises(RuntimeError) as caught:
        ws.send("x")
    assert str(caught.value) == (
        "Working outside of a socket context.\n\n"
        "`ws` stands for the connection whose handler is running, and none is here. Use it\n"
        "in a handler; in a view, use broadcast() or clients of your WebSockets object; in\n"
        "a greenlet or thread of your own, decorate its function in the handler with\n"
        "copy_current_socket_context."
    )


def test_ws_in_a_view_is_an_error(app, sockets):
    @app.get("/view")
    def view():
        return ws.id

    app.testing = True
    with pytest.raises(RuntimeError, match="Working outside of a socket context"):
        app.test_client().get("/view")


# Sessions and users


def test_a_session_that_the_handshake_writes(app, sockets, serve):
    @sockets.before_open
    def before_open():
        session["visits"] = session.get("visits", 0) + 1

    @sockets.on_message
    def handler(message):
        return str(session["visits"])

    server = serve(app)
    client = server.connect()
    assert ask(client, "x") == "1"
    client = server.connect(cookie=cookie_of(client))
    assert ask(client, "x") == "2"
    assert ask(client, "x") == "2"


def test_a_session_that_a_view_wrote(app, sockets, serve):
    @app.get("/login/<name>")
    def login(name):
        session["name"] = name
        return "welcome"

    @sockets.on_message
    def handler(message):
        return session["name"]

    response = app.test_client().get("/login/ann")
    client = serve(app).connect(cookie=response.headers["Set-Cookie"].split(";")[0])
    assert ask(client, "x") == "ann"
    assert "set-cookie" not in client.headers


class User(flask_login.UserMixin):
    def __init__(self, id):
        self.id = id


@pytest.fixture
def loaded(app: Flask) -> list[str]:
    """What the user_loader was asked for."""
    loaded = []
    manager = flask_login.LoginManager(app)

    @manager.user_loader
    def load(id):
        loaded.append(id)
        return None if id in app.config.get("GONE", ()) else User(id)

    @app.get("/login/<name>")
    def login(name):
        flask_login.login_user(User(name))
        return "welcome"

    return loaded


def test_current_user_is_looked_up_for_each_message(app, sockets, serve, loaded):
    @sockets.on_message
    def handler(message):
        user = flask_login.current_user
        return user.id if user.is_authenticated and flask_login.current_user is not None else "-"

    response = app.test_client().get("/login/ann")
    client = serve(app).connect(cookie=response.headers["Set-Cookie"].split(";")[0])
    loaded.clear()
    assert ask(client, "x") == "ann"
    assert ask(client, "x") == "ann"
    assert loaded == ["ann", "ann"]
    # Who is deleted meanwhile is nobody from the next message on.
    app.config["GONE"] = ["ann"]
    assert ask(client, "x") == "-"


def test_users_of_several_connections(app, sockets, serve, loaded):
    @sockets.on_message
    def handler(message):
        return flask_login.current_user.get_id() or "nobody"

    server = serve(app)
    clients = []
    for name in ("ann", "bob"):
        response = app.test_client().get(f"/login/{name}")
        clients.append(server.connect(cookie=response.headers["Set-Cookie"].split(";")[0]))
    clients.append(server.connect())
    for _ in range(2):
        assert [ask(client, "x") for client in clients] == ["ann", "bob", "nobody"]


# Databases


def test_idle_connections_hold_no_database_connection(app, serve, tmp_path):
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'test.db'}"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "poolclass": QueuePool,
        "pool_size": 1,
        "max_overflow": 0,
        "pool_timeout": 1,
        "connect_args": {"check_same_thread": False},
    }
    db = SQLAlchemy(app)
    sockets = WebSockets(app)

    @sockets.before_open
    def before_open():
        db.session.execute(text("SELECT 1"))

    @sockets.on_open
    def hello():
        return str(db.session.execute(text("SELECT 1")).scalar())

    @sockets.on_message
    def handler(message):
        return str(db.session.execute(text("SELECT :n + 1"), {"n": int(message)}).scalar())

    server = serve(app)
    clients = []
    for _ in range(10):
        clients.append(server.connect())
        assert clients[-1].recv() == "1"
    for number in range(2):
        for client in clients:
            assert ask(client, str(number)) == str(number + 1)
    with app.app_context():
        wait_until(lambda: db.engine.pool.checkedout() == 0, "all connections are back")
        db.engine.dispose()


# Tasks


def test_a_copied_context_in_a_thread(app, sockets, serve):
    torn_down = []

    @app.teardown_appcontext
    def teardown(error):
        if has_socket_context() and "task" in g:
            torn_down.append((g.task, repr(error)))

    @sockets.on_message
    def handler(message):
        g.message = message

        @copy_current_socket_context
        def task(number, *, extra):
            seen = (g.get("message"), g.get("task"), request.path, ws.id, has_socket_context())
            g.task = number
            ws.send(repr((number, extra, *seen)))

        for number in range(2):
            threading.Thread(target=task, args=(number,), kwargs={"extra": message}).start()

    client = serve(app).connect()
    client.send("a")
    replies = sorted([client.recv(), client.recv()])
    (connection,) = sockets.clients
    assert replies == [repr((n, "a", None, None, "/", connection.id, True)) for n in range(2)]
    wait_until(lambda: len(torn_down) == 2, "the teardown")
    assert sorted(torn_down) == [(0, "None"), (1, "None")]


def test_a_copied_context_in_a_greenlet(app, sockets, serve):
    seen = []

    @app.teardown_appcontext
    def teardown(error):
        if has_socket_context():
            seen.append((g.name, repr(error)))

    @sockets.on_message
    def handler(message):
        g.name = "handler"

        @copy_current_socket_context
        def task():
            seen.append((g.get("name"), request.path, ws.id))
            g.name = "task"
            ws.send("from the task")

        gevent.spawn(task).join()
        return f"{g.name} {request.path} {ws.id}"

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "from the task"
    (connection,) = sockets.clients
    assert client.recv() == f"handler / {connection.id}"
    wait_until(lambda: len(seen) == 3, "the teardown")
    assert seen == [(None, "/", connection.id), ("task", "None"), ("handler", "None")]


def test_the_error_of_a_copied_context_reaches_its_teardown_and_its_caller(app, sockets, serve):
    seen = []

    @app.teardown_request
    def teardown(error):
        if has_socket_context():
            seen.append(repr(error))

    @sockets.on_message
    def handler(message):
        @copy_current_socket_context
        def task():
            raise LookupError("why")

        try:
            task()
        except LookupError as error:
            seen.append(f"caught {error.args[0]}")
        return f"{request.path} {ws.id}"

    client = serve(app).connect()
    client.send("x")
    reply = client.recv()
    (connection,) = sockets.clients
    assert reply == f"/ {connection.id}"
    wait_until(lambda: len(seen) == 3, "the teardown")
    assert seen == ["LookupError('why')", "caught why", "None"]


def test_copying_a_context_outside_of_a_handler():
    with pytest.raises(RuntimeError) as caught:
        copy_current_socket_context(print)
    assert str(caught.value) == (
        "There is no socket context to copy. Call copy_current_socket_context in a handler, or "
        "use it as a decorator there."
    )


def test_copying_the_context_of_the_handshake(app, sockets, serve):
    errors = []

    @sockets.before_open
    def before_open():
        try:
            copy_current_socket_context(print)
        except RuntimeError as error:
            errors.append(str(error))

    serve(app).connect()
    assert errors == ["The connection is not open yet. Start tasks from on_open onwards."]


def test_a_thread_without_a_copied_context_has_none(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        connection = ws._get_current_object()

        def task():
            connection.send(f"{has_app_context()} {has_request_context()} {has_socket_context()}")

        threading.Thread(target=task).start()

    assert ask(serve(app).connect(), "x") == "False False False"


def test_nothing_stays_pushed_when_teardown_functions_raise():
    app = Flask("teardown")
    raised = []

    @app.teardown_request
    def first(error):
        raised.append("request")
        raise LookupError("request")

    @app.teardown_appcontext
    def second(error):
        raised.append("app")
        raise ValueError("app")

    request_context = app.test_request_context("/")
    with pytest.raises(ValueError, match="app"), request_context:
        handshake = request_context.copy()
    raised.clear()

    context = SocketContext(app, handshake, None)  # type: ignore[arg-type]
    context.push()
    assert has_socket_context()
    assert has_app_context()
    with pytest.raises(ValueError, match="app"):
        context.pop()
    assert raised == ["request", "app"]
    assert not has_socket_context()
    assert not has_app_context()

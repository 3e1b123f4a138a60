"""Attaching to apps and blueprints, registering handlers, and the view from outside."""

import functools
import re
import threading
import urllib.request

import pytest
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import url_for
from support import wait_until

from flask_websockets import Clients
from flask_websockets import WebSockets
from flask_websockets import ws


def ask(client, message):
    client.send(message)
    return client.recv()


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def echo(message):
    return message


# Attaching


def test_echo(app: Flask, serve):
    sockets = WebSockets(app)

    @sockets.on_message(r"ECHO (?P<text>.*)")
    def echo(message, text):
        return text

    client = serve(app).connect()
    client.send("ECHO hello")
    assert client.recv() == "hello"


def test_a_factory_attaches_later(serve):
    sockets = WebSockets(path="/socket")
    sockets.on_message(echo)

    def create_app():
        app = Flask("made")
        sockets.init_app(app)
        return app

    assert ask(serve(create_app()).connect("/socket"), "hello") == "hello"


def test_handlers_may_be_registered_after_attaching(app, serve):
    sockets = WebSockets(app)
    server = serve(app)
    client = server.connect()
    sockets.on_message(echo)
    assert ask(client, "hello") == "hello"


def test_rules_may_be_registered_after_attaching(app, serve):
    sockets = WebSockets(app, path=None)

    @sockets.route("/raw/<name>")
    def raw(ws, name):
        return name

    assert serve(app).connect("/raw/x").recv() == "x"


def test_one_object_on_two_apps(serve):
    sockets = WebSockets()

    @sockets.on_message
    def handler(message):
        return f"{current_app.name} {len(sockets.clients)}"

    @sockets.on_open
    def hello():
        return "hello"

    apps = [Flask("one"), Flask("two")]
    for app in apps:
        sockets.init_app(app)
    one, two = apps
    ones = [serve(one).connect() for _ in range(2)]
    twos = [serve(two).connect()]
    for client in (*ones, *twos):
        assert client.recv() == "hello"
    assert [ask(client, "x") for client in (*ones, *twos)] == ["one 2", "one 2", "two 1"]
    with one.app_context():
        assert len(sockets.clients) == 2
        sockets.broadcast("to one")
    with two.app_context():
        assert len(sockets.clients) == 1
        sockets.broadcast("to two")
    assert [client.recv() for client in (*ones, *twos)] == ["to one", "to one", "to two"]
    several = re.escape(
        "This WebSockets object is attached to several apps. Say which one is meant: "
        "with app.app_context(): ..."
    )
    with pytest.raises(RuntimeError, match=several):
        len(sockets.clients)
    with pytest.raises(RuntimeError, match=several):
        sockets.broadcast("to whom?")
    with Flask("another").app_context(), pytest.raises(RuntimeError, match=several):
        sockets.broadcast("to whom?")


def test_the_only_app_needs_no_context():
    sockets = WebSockets(Flask("one"))
    assert len(sockets.clients) == 0
    sockets.broadcast("to nobody")
    with Flask("another").app_context():
        assert len(sockets.clients) == 0


def test_an_object_on_no_app():
    sockets = WebSockets()
    with pytest.raises(RuntimeError) as caught:
        sockets.broadcast("x")
    assert str(caught.value) == (
        "This WebSockets object is attached to no app. Call init_app(app)."
    )


def test_several_endpoints(app, serve):
    one = WebSockets(app, path="/one/<room>", endpoint="one")
    two = WebSockets(app, path="/two/<room>", endpoint="two")

    @one.on_message
    def first(message, room):
        return f"one {room} {len(one.clients)}"

    @two.on_message
    def second(message, room):
        return f"two {room} {len(two.clients)}"

    server = serve(app)
    clients = [server.connect(path) for path in ("/one/a", "/two/b", "/two/c")]
    wait_until(lambda: (len(one.clients), len(two.clients)) == (1, 2), "the connections")
    assert [ask(client, "x") for client in clients] == ["one a 1", "two b 2", "two c 2"]


def test_an_endpoint_name_that_is_taken(app):
    WebSockets(app)
    with pytest.raises(RuntimeError) as caught:
        WebSockets(app, path="/other")
    assert str(caught.value) == (
        "The app has an endpoint 'websocket' already. Give this one a name of its own: "
        "WebSockets(app, endpoint='...')."
    )


def test_an_endpoint_name_that_a_view_has(app):
    @app.get("/")
    def index():
        return "view"

    with pytest.raises(RuntimeError, match="The app has an endpoint 'index' already"):
        WebSockets(app, path="/other", endpoint="index")


def test_path_none_adds_no_rule(app, serve):
    before = len(list(app.url_map.iter_rules()))
    sockets = WebSockets(app, path=None)
    assert len(list(app.url_map.iter_rules())) == before
    assert repr(sockets) == "<WebSockets 'websocket' at no rule>"


def test_a_view_at_the_same_path(app, serve):
    sockets = WebSockets(app)
    sockets.on_message(echo)

    @app.route("/", methods=["GET", "POST"])
    def index():
        return "view"

    server = serve(app)
    assert get(server.http("/")) == "view"
    assert ask(server.connect("/"), "socket") == "socket"
    assert app.test_client().post("/").text == "view"


def test_a_configuration_that_cannot_be(app):
    app.config["WEBSOCKETS_SEND_BUFFER"] = "a lot"
    sockets = WebSockets()
    with pytest.raises(ValueError) as caught:
        sockets.init_app(app)
    assert str(caught.value) == (
        "WEBSOCKETS_SEND_BUFFER is 'a lot'. It may be a number of bytes above 0."
    )


# Blueprints


def test_a_blueprint(app, serve):
    blueprint = Blueprint("bp", __name__, url_prefix="/in/<room>")
    sockets = WebSockets(blueprint, path="/socket/<int:seat>")

    @sockets.on_message
    def handler(message, room, seat):
        return f"{room} {seat} {url_for('.websocket', room='x', seat=1)}"

    @sockets.on_open
    def hello(room):
        return room

    app.register_blueprint(blueprint)
    server = serve(app)
    client = server.connect("/in/blue/socket/7")
    assert client.recv() == "blue"
    assert ask(client, "x") == f"blue 7 {server.url('/in/x/socket/1')}"
    assert len(sockets.clients) == 1
    with app.test_request_context():
        assert url_for("bp.websocket", room="blue", seat=7) == "ws://localhost/in/blue/socket/7"


def test_a_nested_blueprint(app, serve):
    inner = Blueprint("inner", __name__, url_prefix="/inner/<b>")
    outer = Blueprint("outer", __name__, url_prefix="/outer/<a>")
    sockets = WebSockets(inner, path="/<c>")

    @sockets.on_message
    def handler(message, a, b, c):
        return f"{a} {b} {c}"

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    assert ask(serve(app).connect("/outer/1/inner/2/3"), "x") == "1 2 3"
    with app.test_request_context():
        url = url_for("outer.inner.websocket", a=1, b=2, c=3)
    assert url == "ws://localhost/outer/1/inner/2/3"


def test_a_blueprint_that_is_registered_twice(app, serve):
    blueprint = Blueprint("bp", __name__)
    sockets = WebSockets(blueprint, path="/socket")
    sockets.on_message(lambda message: url_for(".websocket"))
    app.register_blueprint(blueprint, url_prefix="/one", name="one")
    app.register_blueprint(blueprint, url_prefix="/two", name="two")
    server = serve(app)
    for path in ("/one/socket", "/two/socket"):
        assert ask(server.connect(path), "x") == server.url(path)
    assert len(sockets.clients) == 2


def test_a_loop_on_a_blueprint(app, serve):
    blueprint = Blueprint("bp", __name__, url_prefix="/<room>")
    sockets = WebSockets(blueprint, path=None)

    @sockets.route("/raw/<name>")
    def raw(ws, room, name):
        return f"{room} {name}"

    app.register_blueprint(blueprint)
    assert serve(app).connect("/blue/raw/x").recv() == "blue x"
    with app.test_request_context():
        assert url_for("bp.raw", room="blue", name="x") == "ws://localhost/blue/raw/x"


def test_before_request_of_a_blueprint_applies(app, serve):
    blueprint = Blueprint("bp", __name__)
    sockets = WebSockets(blueprint, path="/socket")
    calls = []

    @blueprint.before_request
    def before_request():
        calls.append("before_request")

    sockets.on_message(echo)
    app.register_blueprint(blueprint)
    assert ask(serve(app).connect("/socket"), "x") == "x"
    assert calls == ["before_request"]


# URLs


def test_url_for_gives_the_scheme_of_sockets(app):
    WebSockets(app, path="/chat/<room>")
    with app.test_request_context(base_url="http://example.org"):
        assert url_for("websocket", room="a") == "ws://example.org/chat/a"
        assert url_for("websocket", room="a", _external=True) == "ws://example.org/chat/a"
    with app.test_request_context(base_url="https://example.org"):
        assert url_for("websocket", room="a") == "wss://example.org/chat/a"
        assert url_for("websocket", room="a", _external=True, _scheme="ws") == (
            "ws://example.org/chat/a"
        )


def test_url_for_in_a_handler(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message
    def handler(message):
        return url_for("websocket", room=message)

    server = serve(app)
    assert ask(server.connect("/a"), "b") == server.url("/b")


def test_a_loop_is_named_after_its_function_or_otherwise(app):
    sockets = WebSockets(app, path=None)

    @sockets.route("/one")
    def one(ws):
        pass

    @sockets.route("/two", endpoint="second")
    def two(ws):
        pass

    with app.test_request_context():
        assert url_for("one") == "ws://localhost/one"
        assert url_for("second") == "ws://localhost/two"


# Registering handlers


def every_decorator(sockets):
    return [
        sockets.before_open,
        sockets.on_open,
        sockets.on_message,
        sockets.on_message(),
        sockets.on_message("x"),
        sockets.on_message(b"x"),
        sockets.on_message(re.compile("x")),
        sockets.on_message("x", re.IGNORECASE),
        sockets.on_json,
        sockets.on_json(),
        sockets.on_json(a=1),
        sockets.on_json(dict),
        sockets.before_message,
        sockets.after_message,
        sockets.before_close,
        sockets.on_close,
        sockets.errorhandler(LookupError),
    ]


def test_decorators_return_the_function_and_stack():
    sockets = WebSockets()

    def function(*args, **kwargs):
        pass

    decorated = function
    for decorator in every_decorator(sockets):
        decorated = decorator(decorated)
        assert decorated is function
    for path in ("/one", "/two"):
        assert sockets.route(path, endpoint=path[1:])(function) is function


def test_async_functions_are_refused():
    async def coroutine(message):
        pass

    async def generator(message):
        yield

    class Callable:
        async def __call__(self, message):
            pass

        async def method(self, message):
            pass

        @staticmethod
        async def static(message):
            pass

    class Generator:
        async def __call__(self, message):
            yield

    sockets = WebSockets()
    decorators = [*every_decorator(sockets), sockets.route("/raw"), sockets.spawn]
    functions = [
        *(
            coroutine,
            generator,
            functools.partial(coroutine),
            functools.partial(functools.partial(generator), 1),
        ),
        *(Callable(), Generator(), Callable().method, Callable.__dict__["static"]),
        *(functools.partial(Callable()), functools.partial(Callable().method)),
    ]
    for decorator in decorators:
        for function in functions:
            with pytest.raises(TypeError) as caught:
                decorator(function)
            name = getattr(function, "__qualname__", function)
            assert str(caught.value) == (
                f"{name}() is an async function. Handlers run in a greenlet or a "
                "thread, not in an event loop: write it with def."
            )


def test_a_name_that_nothing_can_fill():
    sockets = WebSockets(Flask("one"), path="/<room>")

    @sockets.on_message("(?P<text>.*)")
    def fine(message, text, room, other=None, **more):
        pass

    def handler(message, room, text, other, another):
        pass

    with pytest.raises(TypeError) as caught:
        sockets.on_message("(?P<text>.*)")(handler)
    assert str(caught.value) == (
        f"{handler.__qualname__}() wants 'another', 'other', which nothing can fill. The names "
        "that can be filled are: room, text."
    )


def test_no_name_can_be_filled():
    sockets = WebSockets(Flask("one"))
    with pytest.raises(TypeError) as caught:
        sockets.on_open(echo)
    assert str(caught.value) == (
        "echo() wants 'message', which nothing can fill. The names that can be filled are: none "
        "here."
    )


def test_on_close_can_be_given_code_and_reason_and_others_cannot():
    sockets = WebSockets(Flask("one"))

    def handler(code, reason):
        pass

    sockets.on_close(handler)
    for decorator in every_decorator(sockets):
        if decorator.__name__ != "on_close":
            with pytest.raises(TypeError, match="'reason'"):
                decorator(handler)


def test_a_handler_that_does_not_fit_is_found_when_the_app_comes(app):
    sockets = WebSockets(path="/<room>")

    @sockets.on_message
    def handler(message, seat):
        pass

    with pytest.raises(TypeError) as caught:
        sockets.init_app(app)
    assert str(caught.value) == (
        f"{handler.__qualname__}() wants 'seat', which nothing can fill. The names that can be "
        "filled are: room."
    )


def test_a_handler_that_does_not_fit_is_found_when_the_blueprint_is_registered(app):
    blueprint = Blueprint("bp", __name__, url_prefix="/<room>")
    sockets = WebSockets(blueprint)

    @sockets.on_message
    def handler(message, room, seat):
        pass

    with pytest.raises(TypeError) as caught:
        app.register_blueprint(blueprint)
    assert str(caught.value) == (
        f"{handler.__qualname__}() wants 'seat', which nothing can fill. The names that can be "
        "filled are: room."
    )


def test_a_loop_that_does_not_fit(app):
    sockets = WebSockets(app)

    def raw(ws, seat):
        pass

    with pytest.raises(TypeError, match="'seat', which nothing can fill"):
        sockets.route("/raw/<room>")(raw)


def test_hooks_must_fit_the_loops_too(app):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message
    def handler(message, room):
        pass

    @sockets.route("/raw/<room>")
    def fits(ws, room):
        pass

    @sockets.on_open
    def hook(room):
        pass

    def does_not_fit(ws):
        pass

    with pytest.raises(TypeError, match="wants 'room', which nothing can fill"):
        sockets.route("/other")(does_not_fit)


def test_a_loop_must_take_the_connection():
    def raw():
        pass

    def keyword_only(*, ws):
        pass

    for function in (raw, keyword_only):
        with pytest.raises(TypeError) as caught:
            WebSockets().route("/raw")(function)
        assert str(caught.value) == (
            f"{function.__qualname__}() must take the connection: def f(ws, ...)."
        )


def test_a_positional_only_parameter():
    def handler(message, text, /):
        pass

    with pytest.raises(TypeError) as caught:
        WebSockets().on_message("(?P<text>.*)")(handler)
    assert str(caught.value) == (
        f"{handler.__qualname__}() has a positional-only parameter 'text'. Handlers are given "
        "their values by name."
    )


@pytest.mark.parametrize("pattern", [1, ["x"], object()])
def test_a_pattern_of_another_type(pattern):
    with pytest.raises(TypeError) as caught:
        WebSockets().on_message(pattern)
    assert str(caught.value) == (
        f"A pattern is str, bytes or compiled by re, not {type(pattern).__name__}."
    )


def test_a_pattern_that_cannot_be_compiled():
    with pytest.raises(re.error):
        WebSockets().on_message("(")


@pytest.mark.parametrize("filters", ["move", {"type": "move"}, 1])
def test_filters_by_position(filters):
    with pytest.raises(TypeError) as caught:
        WebSockets().on_json(filters)
    assert str(caught.value) == (
        "on_json takes a type, or filters by name, such as on_json(type='move'), "
        f"not {filters!r} by position."
    )


@pytest.mark.parametrize("error", [404, "LookupError", LookupError(), int, BaseException, echo])
def test_errorhandler_takes_a_class_of_exceptions(error):
    with pytest.raises(TypeError) as caught:
        WebSockets().errorhandler(error)
    assert str(caught.value) == f"errorhandler takes a class of exceptions, not {error!r}."


def test_a_handler_that_is_no_function():
    with pytest.raises(TypeError) as caught:
        WebSockets().on_message("x")("y")
    assert str(caught.value) == "A handler is a function, not 'y'."


def test_callables_of_other_kinds(app, serve):
    sockets = WebSockets(app, path="/<room>")

    class Handler:
        def method(self, message, room):
            return f"method {message} {room}"

        def __call__(self, message, room):
            return f"instance {message} {room}"

    sockets.on_message("a")(Handler().method)
    sockets.on_message("b")(Handler())
    sockets.on_message("c")(functools.partial(Handler.method, None))
    client = serve(app).connect("/blue")
    assert [ask(client, message) for message in ("a", "b", "c")] == [
        "method a blue",
        "instance b blue",
        "method c blue",
    ]


# Clients


def test_clients(app, serve):
    sockets = WebSockets(app)
    inside = []

    @sockets.on_message
    def handler(message):
        inside.append(ws in sockets.clients)
        return ws.id

    server = serve(app)
    clients = sockets.clients
    assert isinstance(clients, Clients)
    assert len(clients) == 0
    assert list(clients) == []
    assert repr(clients) == "<Clients 0>"
    one, two = server.connect(), server.connect()
    ids = [ask(one, "x"), ask(two, "x")]
    assert inside == [True, True]
    # The same object, live.
    assert len(clients) == 2
    assert repr(clients) == "<Clients 2>"
    assert {connection.id for connection in clients} == set(ids)
    connection = next(connection for connection in clients if connection.id == ids[0])
    assert connection in clients
    assert ids[0] not in clients
    assert None not in clients
    one.shutdown()
    wait_until(lambda: len(clients) == 1, "one is left")
    assert connection not in clients
    assert [connection.id for connection in clients] == [ids[1]]


def test_clients_while_others_come_and_go(app, serve):
    sockets = WebSockets(app)
    sockets.on_message(echo)
    server = serve(app)
    stays = server.connect()
    assert ask(stays, "x") == "x"
    (connection,) = sockets.clients

    def come_and_go():
        for _ in range(10):
            client = server.connect()
            client.send("x")
            client.recv()
            client.shutdown()

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            ids = [client.id for client in sockets.clients]
            assert connection.id in ids
            assert len(set(ids)) == len(ids)
            thread.join(0.001)
    wait_until(lambda: list(sockets.clients) == [connection], "the others are gone")


def test_an_object_in_the_handlers_of_another(app, serve):
    one = WebSockets(app, path="/one", endpoint="one")
    two = WebSockets(app, path="/two", endpoint="two")

    @one.on_message
    def forward(message):
        two.broadcast(message)
        return f"{ws in one.clients} {ws in two.clients}"

    server = serve(app)
    client, other = server.connect("/one"), server.connect("/two")
    wait_until(lambda: len(two.clients) == 1, "the connection")
    assert ask(client, "news") == "True False"
    assert other.recv() == "news"


def test_repr(app):
    sockets = WebSockets(app, path="/chat/<room>", endpoint="chat")
    assert repr(sockets) == "<WebSockets 'chat' at /chat/<room>>"

    @sockets.route("/raw")
    def raw(ws):
        pass

    assert repr(sockets) == "<WebSockets 'chat' at /chat/<room>, /raw>"

"""Work beside messages: tasks that are tied to a connection, and waiting while it is open."""

import gc
import threading
import time
import weakref
from functools import partial

import gevent
import pytest
from flask import g
from flask import got_request_exception
from flask import request
from support import GeventServer
from support import serving
from support import ThreadServer
from support import TIMEOUT
from support import wait_until
from test_dispatch import the_error

from flask_websockets import ConnectionClosed
from flask_websockets import copy_current_socket_context
from flask_websockets import has_socket_context
from flask_websockets import WebSockets
from flask_websockets import ws

FOREVER = 3600


@pytest.fixture
def on_gevent(app):
    """Start the app on gevent; tests of what threads cannot do."""
    with serving(GeventServer) as start:
        yield partial(start, app)


@pytest.fixture
def on_threads(app):
    """The same on threads."""
    with serving(ThreadServer) as start:
        yield partial(start, app)


# What a task is given


def test_a_task_has_its_arguments_and_contexts(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message
    def handler(message, room):
        g.name = "handler"

        def task(first, *, second):
            ws.send(repr((first, second, g.get("name"), request.path, has_socket_context())))

        assert sockets.spawn(task, room, second=message) is None

    client = serve(app).connect("/red")
    client.send("a")
    assert client.recv() == repr(("red", "a", None, "/red", True))


def test_messages_are_handled_meanwhile(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        if message == "start":
            sockets.spawn(ws.sleep, FOREVER)
        return message

    client = serve(app).connect()
    for message in ("start", "a", "b"):
        client.send(message)
        assert client.recv() == message


def test_a_task_runs_its_teardown_functions(app, sockets, serve):
    torn_down = []

    @app.teardown_appcontext
    def teardown(error):
        if "name" in g:
            torn_down.append((g.name, repr(error)))

    @sockets.on_message
    def handler(message):
        def task():
            g.name = "task"
            raise ConnectionClosed(1000)

        sockets.spawn(task)

    client = serve(app).connect()
    client.send("x")
    wait_until(lambda: torn_down, "the teardown")
    assert torn_down == [("task", repr(ConnectionClosed(1000, "")))]


def test_a_task_starts_another(app, sockets, serve):
    @sockets.on_open
    def start():
        sockets.spawn(sockets.spawn, ws.send, "from within")

    assert serve(app).connect().recv() == "from within"


def test_a_thread_of_the_programs_own_starts_one(app, sockets, serve):
    @sockets.on_open
    def start():
        @copy_current_socket_context
        def thread():
            sockets.spawn(task)

        def task():
            ws.sleep(0)
            ws.send("started")

        threading.Thread(target=thread).start()

    assert serve(app).connect().recv() == "started"


# Where there is no connection


def test_outside_of_a_handler_a_sentence_says_so(sockets):
    with pytest.raises(RuntimeError) as caught:
        sockets.spawn(print)
    assert str(caught.value) == (
        "There is no connection to tie a task to. Call spawn() in a handler, from on_open "
        "onwards; a task of the whole app is a thread or greenlet of your own."
    )


def test_before_and_after_the_connection(app, sockets, serve):
    errors = []

    def attempt():
        try:
            sockets.spawn(print)
        except Exception as error:
            errors.append(str(error))

    sockets.before_open(attempt)
    sockets.on_close(attempt)
    serve(app).connect().close()
    wait_until(lambda: len(errors) == 2, "on_close")
    assert errors == [
        "The connection is not open yet. Start tasks from on_open onwards.",
        "the connection is closed with code 1000",
    ]


# The end


@pytest.mark.parametrize("who", ["client", "server", "lost"])
def test_a_task_that_sleeps_ends_with_the_connection(app, sockets, serve, log, who):
    ended = []

    def task():
        ws.send("waiting")
        try:
            ws.sleep(FOREVER)
        finally:
            ended.append(ws.close_code)

    @sockets.on_open
    def start():
        sockets.spawn(task)

    @sockets.on_message
    def handler(message):
        ws.close(4000)

    client = serve(app).connect()
    assert client.recv() == "waiting"
    if who == "client":
        client.close(4001)
    elif who == "server":
        client.send("close")
        assert client.recv_close() == (4000, "")
    else:
        client.shutdown()
    wait_until(lambda: ended, "the end of the task")
    assert ended == [{"client": 4001, "server": 4000, "lost": 1006}[who]]
    assert log == []


def test_a_greenlet_ends_wherever_it_waits_before_on_close(app, sockets, on_gevent, log):
    events = []

    def task():
        ws.send("waiting")
        try:
            gevent.sleep(FOREVER)
        except BaseException as error:
            events.append(type(error).__name__)
            raise
        finally:
            gevent.sleep(0)
            events.append("finally")

    @sockets.on_open
    def start():
        sockets.spawn(task)

    @sockets.on_close
    def closed():
        events.append("on_close")

    client = on_gevent().connect()
    assert client.recv() == "waiting"
    client.close()
    wait_until(lambda: "on_close" in events, "on_close")
    assert events == ["GreenletExit", "finally", "on_close"]
    assert log == []


@pytest.mark.parametrize("call", ["send", "receive", "sleep"])
def test_a_thread_ends_quietly_where_it_uses_the_connection(
    app, sockets, on_threads, log, closes, call
):
    ended = []

    def task():
        ws.send("working")
        try:
            wait_until(lambda: closes, "on_close")
            {"send": lambda _: ws.send("x"), "receive": lambda _: ws.receive(), "sleep": ws.sleep}[
                call
            ](0)
        except BaseException as error:
            ended.append(error)
            raise

    @sockets.on_open
    def start():
        sockets.spawn(task)

    client = on_threads().connect()
    assert client.recv() == "working"
    client.close(4001)
    wait_until(lambda: ended, "the end of the task")
    assert [(type(error), error.code) for error in ended] == [(ConnectionClosed, 4001)]
    assert log == []


def test_a_handler_receives_while_its_task_sends(app, sockets, serve):
    @sockets.on_message("start")
    def handler(message):
        def task():
            ws.send("done")

        sockets.spawn(task)
        return ws.receive()

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "done"
    client.send("answer")
    assert client.recv() == "answer"


def test_nothing_is_left_of_tasks(app, sockets, serve):
    class Thing:
        pass

    things = []

    @sockets.on_open
    def start():
        for wait in (0, FOREVER):
            thing = Thing()
            things.append(weakref.ref(thing))
            sockets.spawn(task, thing, wait)

    def task(thing, wait):
        ws.send("waiting")
        ws.sleep(wait)

    def is_gone():
        gc.collect()
        return not any(thing() for thing in things)

    server = serve(app)
    for _ in range(5):
        client = server.connect()
        assert [client.recv(), client.recv()] == ["waiting"] * 2
        client.close()
        client.shutdown()
    assert len(things) == 10
    wait_until(is_gone, "nothing refers to what the tasks were given")


def test_a_task_does_not_keep_the_process(sockets, on_threads):
    daemons = []

    @sockets.on_open
    def start():
        sockets.spawn(lambda: daemons.append(threading.current_thread().daemon))

    on_threads().connect()
    wait_until(lambda: daemons, "the task")
    assert daemons == [True]


def test_a_server_that_stops_ends_tasks(app, sockets, closes):
    ended = []

    @sockets.on_open
    def start():
        sockets.spawn(task)

    def task():
        ws.send("waiting")
        try:
            gevent.sleep(FOREVER)
        finally:
            ended.append(True)

    server = GeventServer(app)
    client = server.connect()
    assert client.recv() == "waiting"
    thread = threading.Thread(target=server.stop)
    thread.start()
    assert client.recv_close() == (1001, "")
    client.shutdown()
    thread.join(TIMEOUT)
    assert (ended, closes) == ([True], [(1001, "")])


# What a task raises


def test_an_error_is_logged_once_and_closes_the_connection(app, sockets, serve, log, closes):
    signals = []

    def received(sender, exception):
        signals.append(exception)

    got_request_exception.connect(received, app)

    def task():
        raise LookupError("why")

    @sockets.on_open
    def start():
        sockets.spawn(task)

    @sockets.errorhandler(LookupError)
    def never(error):
        return "task errors have no error handler"

    client = serve(app).connect()
    assert client.recv_close() == (1011, "")
    client.close()
    wait_until(lambda: closes, "on_close")
    error = the_error(log)
    assert (type(error), str(error)) == (LookupError, "why")
    assert log[0].getMessage().endswith("of /")
    assert signals == [error]
    assert closes == [(1011, "")]


def test_an_error_leaves_other_connections_alone(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        if message == "fail":
            sockets.spawn(int, "x")
        else:
            return message

    server = serve(app)
    one, other = server.connect(), server.connect()
    one.send("fail")
    assert one.recv_close() == (1011, "")
    other.send("still here")
    assert other.recv() == "still here"
    assert type(the_error(log)) is ValueError


def test_an_error_of_a_teardown_function_is_logged_too(app, sockets, serve, log):
    @app.teardown_appcontext
    def teardown(error):
        if g.pop("fail", False):
            raise LookupError("teardown")

    def task():
        g.fail = True

    @sockets.on_open
    def start():
        sockets.spawn(task)

    assert serve(app).connect().recv_close() == (1011, "")
    assert str(the_error(log)) == "teardown"


# Waiting


def test_sleep_takes_its_time(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        before = time.monotonic()
        ws.sleep(float(message))
        return str(time.monotonic() - before >= float(message))

    client = serve(app).connect()
    for seconds in ("0", "0.05", "-1"):
        client.send(seconds)
        assert client.recv() == "True"


def test_messages_that_come_during_a_sleep_are_kept(app, sockets, serve):
    asleep = threading.Event()

    @sockets.on_message("sleep")
    def handler(message):
        asleep.set()
        ws.sleep(0.1)
        return f"then {ws.receive(timeout=TIMEOUT)}"

    @sockets.on_message
    def other(message):
        return f"handled {message}" if message != "sleep" else None

    client = serve(app).connect()
    client.send("sleep")
    assert asleep.wait(TIMEOUT)
    for message in ("a", "b", "c"):
        client.send(message)
    assert [client.recv() for _ in range(3)] == ["then a", "handled b", "handled c"]


def test_a_handler_that_sleeps_ends_when_the_client_leaves(app, sockets, serve, log, closes):
    started = threading.Event()

    @sockets.on_message
    def handler(message):
        started.set()
        ws.sleep(FOREVER)

    client = serve(app).connect()
    client.send("x")
    assert started.wait(TIMEOUT)
    client.close(4001)
    wait_until(lambda: closes, "on_close")
    assert closes == [(4001, "")]
    assert log == []


def test_a_sleep_answers_and_sends_pings(app, serve):
    app.config["WEBSOCKETS_PING_INTERVAL"] = 0.05
    sockets = WebSockets(app)

    @sockets.on_message
    def handler(message):
        while ws.latency is None:
            ws.sleep(0.01)
        return "the ping was answered"

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "the ping was answered"


def test_a_thread_of_the_programs_own_sleeps_until_the_end(app, sockets, serve, closes):
    ended = []

    @sockets.on_open
    def start():
        @copy_current_socket_context
        def thread():
            ws.send("waiting")
            try:
                ws.sleep(FOREVER)
            except ConnectionClosed as closed:
                ended.append(closed.code)

        threading.Thread(target=thread).start()

    client = serve(app).connect()
    assert client.recv() == "waiting"
    client.close(4001)
    wait_until(lambda: ended, "the end of the thread")
    assert ended == [4001]


def test_several_sleep_at_once(app, sockets, serve):
    ended = []

    def task(number):
        ws.send("waiting")
        try:
            ws.sleep(FOREVER)
        finally:
            ended.append(number)

    @sockets.on_open
    def start():
        for number in range(3):
            sockets.spawn(task, number)

    client = serve(app).connect()
    assert [client.recv() for _ in range(3)] == ["waiting"] * 3
    client.close()
    wait_until(lambda: len(ended) == 3, "the end of all")
    assert sorted(ended) == [0, 1, 2]


def test_a_sleep_before_the_connection_is_open(app, sockets, serve):
    errors = []

    @sockets.before_open
    def before():
        try:
            ws.sleep(1)
        except RuntimeError as error:
            errors.append(str(error))

    serve(app).connect()
    assert errors == ["The connection is not open yet. Send and receive from on_open onwards."]


# Generators that wait


@pytest.mark.parametrize("wait", ["ws.sleep", "gevent.sleep", "time.sleep"])
def test_a_generator_that_waits_is_closed_when_the_client_leaves(
    app, sockets, serve, log, closes, wait
):
    events = []

    @sockets.on_message
    def handler(message):
        try:
            for number in range(1_000_000):
                yield str(number)
                if wait == "ws.sleep":
                    ws.sleep(0.02 if number < 2 else FOREVER)
                elif wait == "gevent.sleep":
                    gevent.sleep(0.02)
                else:
                    time.sleep(0.02)
        finally:
            events.append("closed")

    @sockets.on_close
    def closed():
        events.append("on_close")

    client = serve(app).connect()
    client.send("x")
    assert [client.recv() for _ in range(3)] == ["0", "1", "2"]
    client.close(4001)
    wait_until(lambda: "on_close" in events, "on_close")
    assert events == ["closed", "on_close"]
    assert closes == [(4001, "")]
    assert log == []

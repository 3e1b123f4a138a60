"""Which handlers hear a message, what they are given, what becomes of what they return."""

import re
import threading
import urllib.request
from dataclasses import dataclass

import gevent
import pytest
import websocket
from flask import abort
from flask import got_request_exception
from flask import has_request_context
from flask import jsonify
from flask import redirect
from flask import request
from flask import Response
from support import TIMEOUT
from support import wait_until
from websocket import ABNF

from flask_websockets import ConnectionClosed
from flask_websockets import has_socket_context
from flask_websockets import WebSockets
from flask_websockets import ws


def replies(client, *messages):
    """All that comes back for *messages*: what was sent before a Close is answered."""
    for message in messages:
        if isinstance(message, bytes):
            client.send_binary(message)
        else:
            client.send(message)
    client.send(b"", ABNF.OPCODE_CLOSE)
    received = []
    while True:
        opcode, data = client.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            assert data == b""
            return received
        received.append(data.decode() if opcode == ABNF.OPCODE_TEXT else data)


def the_error(log):
    """The exception of the only record."""
    (record,) = log
    assert record.levelname == "ERROR"
    return record.exc_info[1]


def wait_for_end(client):
    """Wait for the end of the TCP connection, before which all handlers have run."""
    assert client.sock.recv(1) == b""


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


# Which messages are heard


def test_without_a_pattern_text_and_binary_are_heard(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    assert replies(serve(app).connect(), "text", b"binary") == ["text", b"binary"]


def test_empty_parentheses_are_as_none(app, sockets, serve):
    @sockets.on_message()
    def echo(message):
        return message

    assert replies(serve(app).connect(), "text", b"binary") == ["text", b"binary"]


@pytest.mark.parametrize("pattern", ["^a", re.compile("^a")])
def test_a_str_pattern_hears_text_that_matches(app, sockets, serve, pattern):
    @sockets.on_message(pattern)
    def echo(message):
        return message

    assert replies(serve(app).connect(), "ba", b"ab", "ab") == ["ab"]


@pytest.mark.parametrize("pattern", [b"^a", re.compile(b"^a")])
def test_a_bytes_pattern_hears_binary_that_matches(app, sockets, serve, pattern):
    @sockets.on_message(pattern)
    def echo(message):
        return message

    assert replies(serve(app).connect(), b"ba", "ab", b"ab") == [b"ab"]


def test_a_pattern_matches_from_the_start_and_not_to_the_end(app, sockets, serve):
    @sockets.on_message(re.compile("b"))
    def echo(message):
        return message

    assert replies(serve(app).connect(), "ab", "bc") == ["bc"]


@pytest.mark.parametrize("by_name", [False, True])
def test_flags_are_those_of_re(app, sockets, serve, by_name):
    if by_name:
        on_message = sockets.on_message("echo (?P<text>.*)", flags=re.IGNORECASE | re.DOTALL)
    else:
        on_message = sockets.on_message("echo (?P<text>.*)", re.IGNORECASE | re.DOTALL)

    @on_message
    def echo(message, text):
        return text

    assert replies(serve(app).connect(), "ECHO a\nb") == ["a\nb"]


def test_patterns_are_called_before_catch_alls_in_order_of_registration(app, sockets, serve):
    @sockets.on_message
    def catch_all(message):
        return "catch-all"

    @sockets.on_message("a")
    def first(message):
        return "first"

    @sockets.on_json
    def second_catch_all(data):
        return "any JSON"

    @sockets.on_json(a=1)
    def fits(data):
        return "JSON that fits"

    @sockets.on_message("a|{")
    def second(message):
        return "second"

    client = serve(app).connect()
    assert replies(client, "a", '{"a": 1}', "b") == [
        *("first", "second", "catch-all"),
        *("JSON that fits", "second", "catch-all", "any JSON"),
        "catch-all",
    ]


def test_match_one_calls_the_first_that_hears(app, serve):
    sockets = WebSockets(app, match_one=True)

    @sockets.on_message
    def catch_all(message):
        return "catch-all"

    @sockets.on_message("a")
    def first(message):
        return "first"

    @sockets.on_message("ab")
    def second(message):
        return "second"

    assert replies(serve(app).connect(), "ab", "b") == ["first", "catch-all"]


def test_decorators_stack(app, sockets, serve):
    @sockets.on_message("a")
    @sockets.on_message("b")
    def echo(message):
        return message

    assert replies(serve(app).connect(), "a", "b", "c") == ["a", "b"]


def test_a_message_nobody_hears_gets_no_reply(app, sockets, serve, log):
    assert replies(serve(app).connect(), "text", b"binary") == []
    assert log == []


def test_messages_are_handled_one_at_a_time_in_order(app, sockets, serve):
    @sockets.on_message(r"(?P<number>\d+)")
    def twice(message, number):
        yield number
        yield number

    numbers = [str(number) for number in range(50)]
    assert replies(serve(app).connect(), *numbers) == [n for n in numbers for _ in range(2)]


# What handlers are given


def test_groups_and_url_variables_come_by_name(app, serve):
    sockets = WebSockets(app, path="/<room>/<int:seat>")

    @sockets.on_message("(?P<verb>[a-z]+) (?P<rest>.*)")
    def handler(message, seat, rest, room, verb):
        return repr((message, seat, rest, room, verb))

    assert replies(serve(app).connect("/blue/7"), "say hello") == [
        repr(("say hello", 7, "hello", "blue", "say"))
    ]


def test_the_first_parameter_is_the_message_whatever_its_name(app, sockets, serve):
    @sockets.on_message("(?P<message>.)(?P<text>.*)")
    def handler(whole, message, text):
        return f"{whole} {message} {text}"

    assert replies(serve(app).connect(), "abc") == ["abc a bc"]


def test_groups_of_a_bytes_pattern_are_bytes(app, sockets, serve):
    @sockets.on_message(b"\x01(?P<rest>.*)")
    def handler(message, rest):
        return rest

    assert replies(serve(app).connect(), b"\x01\xff") == [b"\xff"]


def test_an_optional_group_that_took_no_part_is_none(app, sockets, serve):
    @sockets.on_message("a(?P<b>b)?")
    def handler(message, b):
        return repr(b)

    assert replies(serve(app).connect(), "a", "ab") == ["None", "'b'"]


def test_a_group_goes_before_a_url_variable_of_its_name(app, serve):
    sockets = WebSockets(app, path="/<name>")

    @sockets.on_message("(?P<name>.*)")
    def handler(message, name):
        return name

    assert replies(serve(app).connect("/url"), "group") == ["group"]


def test_kwargs_take_all_there_is(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message("(?P<a>.)(?P<b>.)?")
    def handler(message, **kwargs):
        return repr(sorted(kwargs.items()))

    assert replies(serve(app).connect("/blue"), "x") == [
        "[('a', 'x'), ('b', None), ('room', 'blue')]"
    ]


def test_what_is_not_named_is_not_passed(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message("(?P<a>.)(?P<b>.)")
    def handler(message, b):
        return b

    assert replies(serve(app).connect("/blue"), "xy") == ["y"]


def test_a_parameter_with_a_default_may_go_unfilled(app, sockets, serve):
    @sockets.on_message("a")
    @sockets.on_message("b(?P<rest>.*)")
    def handler(message, rest="default"):
        return rest

    assert replies(serve(app).connect(), "a", "bcd") == ["default", "cd"]


def test_a_handler_without_parameters(app, sockets, serve):
    @sockets.on_message("(?P<text>.*)")
    def handler():
        return "called"

    assert replies(serve(app).connect(), "x") == ["called"]


def test_keyword_only_parameters_leave_the_message_out(app, sockets, serve):
    @sockets.on_message("(?P<text>.*)")
    def handler(*, text):
        return text

    assert replies(serve(app).connect(), "x") == ["x"]


# JSON


def test_on_json_hears_text_that_is_json(app, sockets, serve):
    @sockets.on_json
    def handler(data):
        return repr(data)

    client = serve(app).connect()
    assert replies(client, "{", b"[1]", '{"a": [1, null]}', "true", '"text"', "null") == [
        "{'a': [1, None]}",
        "True",
        "'text'",
        "None",
    ]


def test_empty_parentheses_of_on_json_are_as_none(app, sockets, serve):
    @sockets.on_json()
    def handler(data):
        return repr(data)

    assert replies(serve(app).connect(), "[1]") == ["[1]"]


def test_filters_are_keys_and_their_values(app, sockets, serve):
    @sockets.on_json(type="move", x=1)
    def handler(data):
        return data["text"]

    assert replies(
        serve(app).connect(),
        '{"type": "move", "text": "no x"}',
        '{"type": "stay", "x": 1, "text": "another type"}',
        '{"type": "move", "x": true, "text": "true is not 1"}',
        '{"type": "move", "x": null, "text": "null is not 1"}',
        '["type", "x"]',
        '"type"',
        "1",
        '{"x": 1, "type": "move", "more": 2, "text": "fits"}',
    ) == ["fits"]


def test_a_filter_for_true_takes_no_1(app, sockets, serve):
    @sockets.on_json(on=True)
    def handler(data):
        return data["text"]

    assert replies(
        serve(app).connect(), '{"on": 1, "text": "1"}', '{"on": true, "text": "true"}'
    ) == ["true"]


def test_a_filter_for_none_wants_the_key(app, sockets, serve):
    @sockets.on_json(a=None)
    def handler(data):
        return "null"

    assert replies(serve(app).connect(), "{}", '{"a": null}') == ["null"]


def test_a_json_handler_is_given_url_variables(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_json(a=1)
    def handler(data, room):
        return [room, data]

    assert replies(serve(app).connect("/blue"), '{"a":1}') == ['["blue", {"a": 1}]']


@dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        ({"b": 1, "a": None}, '{"a": null, "b": 1}'),
        ([1, "é"], '[1, "\\u00e9"]'),
        ({}, "{}"),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        ("text", "text"),
        (b"binary", b"binary"),
    ],
)
def test_replies_of_on_json(app, sockets, serve, reply, sent):
    @sockets.on_json
    def handler(data):
        return reply

    assert replies(serve(app).connect(), "1") == [sent]


def test_on_json_streams_json(app, sockets, serve):
    @sockets.on_json
    def handler(data):
        for item in data:
            yield {"item": item}

    assert replies(serve(app).connect(), "[1, 2]") == ['{"item": 1}', '{"item": 2}']


def test_a_dict_from_on_message_is_an_error(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        return {"a": 1}

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    error = the_error(log)
    assert type(error) is TypeError
    assert str(error) == (
        f"{handler.__qualname__}() returned dict. Return str, bytes, a Flask Response such as "
        "jsonify() makes, a generator of these, or None for no reply. A dict is a reply in on_json."
    )


# Replies


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        (None, []),
        ("", [""]),
        ("text é", ["text é"]),
        (b"", [b""]),
        (b"binary", [b"binary"]),
        (bytearray(b"binary"), [b"binary"]),
        pytest.param(memoryview(b"binary"), [b"binary"], id="memoryview"),
        (Response("text"), ["text"]),
        (Response("text", mimetype="text/plain"), ["text"]),
        (Response("{}", mimetype="application/geo+json"), ["{}"]),
        (Response(b"\xff", mimetype="application/octet-stream"), [b"\xff"]),
        (Response("text", status=299), ["text"]),
    ],
    ids=repr,
)
def test_replies(app, sockets, serve, log, reply, sent):
    @sockets.on_message
    def handler(message):
        return reply

    assert replies(serve(app).connect(), "x") == sent
    assert log == []


def test_jsonify(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        return jsonify(a=1)

    assert [reply.strip() for reply in replies(serve(app).connect(), "x")] == ['{"a":1}']


@pytest.mark.parametrize("reply", [1, True, 1.5, {"a"}, ("a", 200), [], object], ids=repr)
def test_anything_else_is_an_error(app, sockets, serve, log, reply):
    @sockets.on_message
    def handler(message):
        return reply

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    error = the_error(log)
    assert type(error) is TypeError
    assert str(error) == (
        f"{handler.__qualname__}() returned {type(reply).__name__}. Return str, bytes, a Flask "
        "Response such as jsonify() makes, a generator of these, or None for no reply. A dict is "
        "a reply in on_json."
    )


@pytest.mark.parametrize("reply", [1, ("a", 200), Point], ids=repr)
def test_anything_else_is_an_error_of_on_json(app, sockets, serve, log, reply):
    @sockets.on_json
    def handler(data):
        return reply

    client = serve(app).connect()
    client.send("1")
    assert client.recv_close() == (1011, "")
    error = the_error(log)
    assert type(error) is TypeError
    assert str(error) == (
        f"{handler.__qualname__}() returned {type(reply).__name__}. Return str, bytes, a Flask "
        "Response such as jsonify() makes, a generator of these, or None for no reply."
    )


def test_a_response_of_status_300_is_an_error(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        return redirect("/elsewhere")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    error = the_error(log)
    assert type(error) is ValueError
    assert str(error) == (
        f"{handler.__qualname__}() returned a response of status 302 FOUND. A message has no "
        "status: raise an error, or return one of status 200."
    )


# Generators


def test_each_item_is_sent_before_the_generator_goes_on(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        yield "first"
        yield ws.receive()
        yield b"last"

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "first"
    client.send("second")
    assert client.recv() == "second"
    assert client.recv() == b"last"


def test_items_that_are_none_are_skipped(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        yield None
        yield "a"
        yield None

    assert replies(serve(app).connect(), "x") == ["a"]


def test_a_generator_runs_in_the_context_of_its_message(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        yield request.path
        yield ws.id if has_socket_context() else "none"

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "/"
    assert client.recv() == next(iter(sockets.clients)).id


def test_a_generator_is_stopped_when_the_client_leaves(app, sockets, serve, log):
    stopped, closes = [], []

    @sockets.on_message
    def handler(message):
        try:
            while True:
                yield "tick"
        finally:
            stopped.append(has_request_context())

    @sockets.on_close
    def closed(code):
        closes.append(code)

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "tick"
    client.shutdown()
    wait_until(lambda: closes, "on_close")
    assert stopped == [True]
    assert closes == [1006]
    assert log == []


def test_a_generator_is_stopped_when_the_client_closes_and_stays(app, sockets, serve, closes):
    stopped = []

    @sockets.on_message
    def handler(message):
        try:
            while True:
                gevent.sleep(0.01)
                yield "tick"
        finally:
            stopped.append(True)

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "tick"
    client.send_close(1000)
    while (frame := client.recv_frame()).opcode == websocket.ABNF.OPCODE_TEXT:
        assert frame.data == b"tick"
    assert (frame.opcode, frame.data) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")
    wait_until(lambda: closes, "on_close")
    assert stopped == [True]
    assert closes == [(1000, "")]


def test_a_slow_handler_answers_before_the_close_is_answered(app, sockets, serve, closes):
    asked = threading.Event()

    @sockets.on_message
    def handler(message):
        asked.set()
        gevent.sleep(0.1)  # longer than it takes until somebody who sends looks for a Close
        return "answer"

    client = serve(app).connect()
    client.send("x")
    client.send_close(1000)
    assert asked.wait(TIMEOUT)
    assert client.recv() == "answer"
    assert client.recv_close() == (1000, "")


def test_a_generator_is_closed_when_one_of_its_items_is_an_error(app, sockets, serve, log):
    stopped = []

    @sockets.on_message
    def handler(message):
        try:
            yield "fine"
            yield 1
        finally:
            stopped.append(True)

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "fine"
    assert client.recv_close() == (1011, "")
    assert stopped == [True]
    assert str(the_error(log)).startswith(f"{handler.__qualname__}() returned int. ")


# Hooks


def test_on_open_replies_before_anything_is_received(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_open
    def hello(room):
        return f"hello {room}"

    @sockets.on_open
    def again():
        yield "one"
        yield "two"

    client = serve(app).connect("/blue")
    assert [client.recv() for _ in range(3)] == ["hello blue", "one", "two"]


def test_before_message_goes_on_after_none(app, serve):
    sockets = WebSockets(app, path="/<room>")
    heard = []

    @sockets.before_message
    def first(message):
        heard.append(("first", message))

    @sockets.before_message
    def second(message, room):
        heard.append(("second", message, room))

    @sockets.on_message
    def echo(message):
        heard.append(("handler", message))
        return message

    assert replies(serve(app).connect("/blue"), "a") == ["a"]
    assert heard == [("first", "a"), ("second", "a", "blue"), ("handler", "a")]


def test_a_reply_of_before_message_stands_in_for_the_handlers(app, sockets, serve):
    @sockets.before_message
    def first(message):
        return "no" if message == "secret" else None

    @sockets.before_message
    def second(message):
        return "second" if message in ("secret", "b") else None

    @sockets.on_message
    def echo(message):
        return message

    assert replies(serve(app).connect(), "secret", "b", "c") == ["no", "second", "c"]


def test_after_message_sees_each_reply_and_returns_what_is_sent(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_open
    def hello():
        return "hello"

    @sockets.on_message
    def stream(message):
        yield message
        yield "drop"
        yield "end"

    @sockets.after_message
    def change(reply, room):
        return None if reply == "drop" else f"{room}: {reply}"

    client = serve(app).connect("/blue")
    assert replies(client, "a") == ["blue: hello", "blue: a", "blue: end"]


def test_after_message_is_called_in_reverse_as_after_request(app, sockets, serve):
    seen = []

    @sockets.on_message
    def echo(message):
        return message

    @sockets.after_message
    def registered_first(reply):
        seen.append(reply)
        return reply + "1"

    @sockets.after_message
    def registered_second(reply):
        return None if reply == "drop" else reply + "2"

    assert replies(serve(app).connect(), "a", "drop") == ["a21"]
    assert seen == ["a2"]


def test_after_message_sees_what_a_json_handler_returned(app, sockets, serve):
    @sockets.on_json
    def handler(data):
        return {"data": data}

    @sockets.after_message
    def stamp(reply):
        return {**reply, "stamp": 1}

    assert replies(serve(app).connect(), "2") == ['{"data": 2, "stamp": 1}']


# Closing


def test_on_close_with_the_clients_code_and_reason(app, sockets, serve, closes):
    client = serve(app).connect()
    client.send_close(4001, "späť".encode())
    assert client.recv_close() == (4001, "")
    wait_for_end(client)
    assert closes == [(4001, "späť")]


def test_on_close_without_a_code(app, sockets, serve, closes):
    client = serve(app).connect()
    client.send(b"", ABNF.OPCODE_CLOSE)
    assert client.recv_close() == (1005, "")
    wait_for_end(client)
    assert closes == [(1005, "")]


def test_on_close_when_the_connection_is_lost(app, sockets, serve, closes):
    serve(app).connect().shutdown()
    wait_until(lambda: closes, "on_close")
    assert closes == [(1006, "")]


def test_on_close_when_a_handler_closes(app, sockets, serve, closes):
    @sockets.on_message
    def handler(message):
        ws.close(4000, "bye")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert closes == [(4000, "bye")]


def test_on_close_when_a_handler_fails(app, sockets, serve, closes, log):
    @sockets.on_message
    def handler(message):
        raise LookupError("a secret")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    assert closes == [(1011, "")]


def test_on_close_when_the_client_breaks_the_protocol(app, sockets, serve, closes, log):
    client = serve(app).connect()
    # Opcode 3 means nothing.
    client.sock.sendall(b"\x83\x80\x00\x00\x00\x00")
    code, reason = client.recv_close()
    assert code == 1002
    wait_for_end(client)
    assert closes == [(1002, reason)]
    assert log == []


def test_messages_before_a_failure_are_answered(app, sockets, serve, closes):
    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    client.sock.sendall(b"\x81\x81\x00\x00\x00\x00a" + b"\x83\x80\x00\x00\x00\x00")
    assert client.recv() == "a"
    assert client.recv_close()[0] == 1002


def test_on_close_is_called_with_what_it_names(app, serve):
    sockets = WebSockets(app, path="/<room>")
    seen = []

    @sockets.on_close
    def nothing():
        seen.append("nothing")

    @sockets.on_close
    def some(reason, room):
        seen.append((reason, room))

    @sockets.on_close
    def everything(**kwargs):
        seen.append(kwargs)

    client = serve(app).connect("/blue")
    client.send_close(1001, b"away")
    client.recv_close()
    wait_for_end(client)
    assert seen == ["nothing", ("away", "blue"), {"room": "blue", "code": 1001, "reason": "away"}]


def test_what_on_close_returns_is_ignored(app, sockets, serve, log):
    @sockets.on_close
    def closed():
        return 1

    assert replies(serve(app).connect()) == []
    assert log == []


def test_before_close_replies_when_a_handler_closes(app, serve):
    sockets = WebSockets(app, path="/<room>")
    connected = []

    @sockets.on_message
    def handler(message):
        ws.close(4000, "bye")
        connected.append(ws.connected)

    @sockets.before_close
    def last_words(room):
        connected.append(ws.connected)
        return f"last words in {room}"

    client = serve(app).connect("/blue")
    client.send("x")
    assert client.recv() == "last words in blue"
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert connected == [True, False]


def test_before_close_replies_when_a_loop_returns(app, sockets, serve):
    @sockets.route("/raw")
    def raw(ws):
        return "reply"

    @sockets.before_close
    def last_words():
        yield "last"
        yield "words"

    client = serve(app).connect("/raw")
    assert [client.recv() for _ in range(3)] == ["reply", "last", "words"]
    assert client.recv_close() == (1000, "")


def test_before_close_when_another_thread_closes(app, sockets, serve, closes):
    @sockets.before_close
    def last_words():
        return f"last words to {ws.id} at {request.path}"

    client = serve(app).connect()
    wait_until(lambda: sockets.clients, "the connection")
    (connection,) = sockets.clients
    connection.close(4000, "bye")
    assert client.recv() == f"last words to {connection.id} at /"
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert closes == [(4000, "bye")]


def test_before_close_when_a_view_closes(app, sockets, serve, closes):
    @sockets.before_close
    def last_words():
        return f"last words at {request.path}"

    @app.get("/close-all")
    def close_all():
        for client in sockets.clients:
            client.close(4000, "bye")
        return request.path

    server = serve(app)
    client = server.connect()
    wait_until(lambda: sockets.clients, "the connection")
    assert get(server.http("/close-all")) == "/close-all"
    assert client.recv() == "last words at /"
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert closes == [(4000, "bye")]


def test_before_close_is_not_called_when_the_client_closes(app, sockets, serve):
    called = []

    @sockets.before_close
    def last_words():
        called.append(True)

    client = serve(app).connect()
    assert replies(client) == []
    wait_for_end(client)
    assert called == []


def test_before_close_is_called_once_even_if_it_closes(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        ws.close(4000)

    @sockets.before_close
    def last_words():
        ws.send("last words")
        ws.close(4001, "another")

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "last words"
    assert client.recv_close() == (4001, "another")


def test_before_close_is_called_after_an_error(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        raise LookupError

    @sockets.before_close
    def last_words():
        return "sorry"

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "sorry"
    assert client.recv_close() == (1011, "")


# Errors


def test_the_error_handler_of_the_nearest_class_replies(app, serve, log):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_message
    def handler(message):
        raise {"key": KeyError, "index": IndexError, "value": ValueError}[message]("why")

    @sockets.errorhandler(Exception)
    def any_error(error):
        return "any"

    @sockets.errorhandler(LookupError)
    def lookup(error, room):
        return f"{type(error).__name__} {error.args[0]} in {room}"

    @sockets.errorhandler(IndexError)
    def index():
        return {"error": "index"}

    client = serve(app).connect("/blue")
    assert replies(client, "key", "index", "value", "other") == [
        "KeyError why in blue",
        '{"error": "index"}',
        "any",
        "KeyError other in blue",
    ]
    assert log == []


def test_an_error_handler_may_stay_silent_and_the_connection_stays_open(app, sockets, serve, log):
    @sockets.on_message("fail")
    def fail(message):
        raise LookupError

    @sockets.on_message
    def echo(message):
        return message

    @sockets.errorhandler(LookupError)
    def ignore(error):
        return None

    # The handlers that come after the one that failed are not called.
    assert replies(serve(app).connect(), "fail", "a") == ["a"]
    assert log == []


def test_an_error_handler_of_another_class_is_not_called(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        raise ValueError("mine")

    @sockets.errorhandler(LookupError)
    def lookup(error):
        return "handled"

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    assert repr(the_error(log)) == "ValueError('mine')"


def test_an_error_handler_answers_for_a_reply_that_is_none(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        return 1

    @sockets.errorhandler(TypeError)
    def explain(error):
        return "a mistake of the server"

    assert replies(serve(app).connect(), "x") == ["a mistake of the server"]
    assert log == []


def test_an_error_handler_that_fails(app, sockets, serve, log, closes):
    @sockets.on_message
    def handler(message):
        raise LookupError("first")

    @sockets.errorhandler(LookupError)
    def fails(error):
        raise ValueError("second")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    error = the_error(log)
    assert repr(error) == "ValueError('second')"
    assert repr(error.__context__) == "LookupError('first')"
    assert closes == [(1011, "")]


def test_an_error_nobody_handles_is_logged_once_and_told_by_signal(
    app, sockets, serve, log, closes
):
    signalled = []

    @sockets.on_message("fail")
    def fail(message):
        raise LookupError("a secret")

    @sockets.on_message
    def echo(message):
        return message

    def receiver(sender, exception, **extra):
        signalled.append((sender, exception))

    server = serve(app)
    bystander, client = server.connect(), server.connect()
    with got_request_exception.connected_to(receiver):
        client.send("fail")
        assert client.recv_close() == (1011, "")
        wait_for_end(client)
    error = the_error(log)
    assert repr(error) == "LookupError('a secret')"
    assert re.fullmatch("Exception on socket [0-9a-f]{16} of /", log[0].getMessage())
    assert log[0].exc_info[2] is not None
    assert signalled == [(app, error)]
    assert closes == [(1011, "")]
    bystander.send("still here")
    assert bystander.recv() == "still here"


def test_the_logger_sees_the_request(app, sockets, serve, log):
    paths = []

    class Watch:
        def filter(self, record):
            paths.append(request.path if has_request_context() else None)
            return True

    app.logger.addFilter(Watch())

    @sockets.on_message
    def fail(message):
        raise LookupError

    client = serve(app).connect()
    client.send("x")
    client.recv_close()
    assert paths == ["/"]


def test_a_signal_receiver_that_fails_changes_nothing(app, sockets, serve, log, closes):
    @sockets.on_message
    def fail(message):
        raise LookupError("mine")

    def receiver(sender, exception, **extra):
        raise ValueError("the receiver's")

    client = serve(app).connect()
    with got_request_exception.connected_to(receiver, app):
        client.send("x")
        assert client.recv_close() == (1011, "")
        wait_for_end(client)
    assert [repr(record.exc_info[1]) for record in log] == [
        "LookupError('mine')",
        'ValueError("the receiver\'s")',
    ]
    assert closes == [(1011, "")]


class Boom(Exception):
    pass


def test_an_error_in_on_close(app, sockets, serve, log, closes):
    @sockets.on_close
    def fails():
        raise Boom

    @sockets.on_close
    def last():
        closes.append("the last one too")

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    bystander, client = server.connect(), server.connect()
    assert replies(client, "a") == ["a"]
    wait_for_end(client)
    assert type(the_error(log)) is Boom
    assert closes == [(1005, ""), "the last one too"]
    bystander.send("b")
    assert bystander.recv() == "b"


def test_an_error_handler_answers_for_on_open(app, sockets, serve, log):
    @sockets.on_open
    def fails():
        raise Boom

    @sockets.on_message
    def echo(message):
        return message

    @sockets.errorhandler(Boom)
    def handled(error):
        return "handled"

    assert replies(serve(app).connect(), "a") == ["handled", "a"]
    assert log == []


def test_an_http_exception_is_an_error_as_any(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        abort(403)

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    assert the_error(log).code == 403


def test_connection_closed_ends_a_handler_quietly(app, sockets, serve, log, closes):
    errors, torn_down = [], []

    @sockets.on_message
    def handler(message):
        try:
            while True:
                ws.send("tick")
        except ConnectionClosed as error:
            errors.append((error.code, error.reason))
            raise

    @sockets.errorhandler(Exception)
    def handled(error):
        errors.append(error)

    @app.teardown_request
    def teardown(error):
        if has_socket_context():
            torn_down.append(type(error))

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == "tick"
    client.send_close(4000, b"enough")
    while client.recv_data()[0] != ABNF.OPCODE_CLOSE:
        pass
    wait_for_end(client)
    assert errors == [(4000, "enough")]
    assert torn_down == [ConnectionClosed, type(None)]  # the message's, then on_close's
    assert closes == [(4000, "enough")]
    assert log == []


# Loops


def test_a_loop_reads_and_writes_as_it_likes(app, serve, log):
    sockets = WebSockets(app, path=None)

    @sockets.route("/raw/<room>")
    def raw(ws, room):
        ws.send(room)
        for message in ws:
            if message == "end":
                return "reply"
            ws.send(message)

    client = serve(app).connect("/raw/blue")
    client.send("a")
    client.send_binary(b"b")
    client.send("end")
    assert [client.recv() for _ in range(4)] == ["blue", "a", b"b", "reply"]
    assert client.recv_close() == (1000, "")
    assert log == []


def test_a_loop_may_name_the_clients(app, sockets, serve):
    seen = []

    @sockets.route("/socktest")
    def main(ws, clients):
        seen.append(ws in clients)
        for _ in range(2):
            message = ws.receive()
            for client in clients:
                client.send(f"{len(clients)} {message}")

    server = serve(app)
    one, two = server.connect("/socktest"), server.connect("/socktest")
    wait_until(lambda: seen == [True, True], "both are among the clients")
    one.send("a")
    assert [one.recv(), two.recv()] == ["2 a", "2 a"]
    two.send("b")
    assert [one.recv(), two.recv()] == ["2 b", "2 b"]


def test_a_variable_called_clients_comes_before_the_clients(app, sockets, serve):
    @sockets.route("/<int:clients>")
    def count(ws, clients):
        return str(clients)

    assert serve(app).connect("/3").recv() == "3"


def test_a_loop_that_ends_because_the_client_closed(app, sockets, serve, log, closes):
    @sockets.route("/raw")
    def raw(ws):
        for message in ws:
            ws.send(message)
        closes.append("after the loop")
        return "too late"

    assert replies(serve(app).connect("/raw"), "a", "b") == ["a", "b"]
    wait_until(lambda: len(closes) == 2, "on_close")
    assert closes == ["after the loop", (1005, "")]
    assert log == []


def test_a_loop_that_is_a_generator(app, sockets, serve):
    @sockets.route("/raw")
    def raw(ws):
        for message in ws:
            yield message.upper()

    assert replies(serve(app).connect("/raw"), "a", "b") == ["A", "B"]


def test_a_loop_that_fails(app, sockets, serve, log, closes):
    @sockets.route("/raw")
    def raw(ws):
        raise Boom

    client = serve(app).connect("/raw")
    assert client.recv_close() == (1011, "")
    wait_for_end(client)
    assert type(the_error(log)) is Boom
    assert closes == [(1011, "")]


def test_a_loop_that_returns_what_is_no_reply(app, sockets, serve, log):
    @sockets.route("/raw")
    def raw(ws):
        return 1

    client = serve(app).connect("/raw")
    assert client.recv_close() == (1011, "")
    assert str(the_error(log)).startswith(f"{raw.__qualname__}() returned int. ")


def test_an_error_handler_answers_for_a_loop(app, sockets, serve, log):
    @sockets.route("/raw")
    def raw(ws):
        raise Boom

    @sockets.errorhandler(Boom)
    def handled(error):
        return "handled"

    client = serve(app).connect("/raw")
    assert client.recv() == "handled"
    assert client.recv_close() == (1000, "")
    assert log == []


def test_hooks_apply_to_loops_and_handlers_of_messages_do_not(app, sockets, serve):
    @sockets.route("/raw")
    def raw(ws):
        return ws.receive()

    @sockets.on_message
    def echo(message):
        return "from on_message"

    @sockets.before_message
    def stand_in(message):
        return "from before_message"

    @sockets.before_open
    def refuse():
        return ("no", 403) if request.args.get("refuse") else None

    @sockets.on_open
    def hello():
        return "hello"

    @sockets.after_message
    def loud(reply):
        return reply.upper()

    @sockets.before_close
    def last_words():
        return "last words"

    server = serve(app)
    client = server.connect("/raw")
    client.send("message")
    assert [client.recv() for _ in range(3)] == ["HELLO", "MESSAGE", "LAST WORDS"]
    assert client.recv_close() == (1000, "")
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        server.connect("/raw?refuse=1")
    assert caught.value.status_code == 403


def test_json_that_cannot_be_encoded_is_an_error_that_names_the_handler(app, sockets, serve, log):
    @sockets.on_json
    def handler(data):
        return {"what": object()}

    client = serve(app).connect()
    client.send("1")
    assert client.recv_close() == (1011, "")
    error = the_error(log)
    assert type(error) is TypeError
    assert str(error).startswith(f"{handler.__qualname__}() returned what is no JSON: ")


def test_after_message_is_named_for_what_it_returns(app, sockets, serve, log):
    sockets.on_message(lambda message: message)

    @sockets.after_message
    def after(reply):
        return 5

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    assert str(the_error(log)).startswith(f"{after.__qualname__}() returned int. ")


def test_a_loop_is_not_begun_once_on_open_has_closed(app, sockets, serve):
    begun, closes = [], []
    sockets.on_open(lambda: ws.close(4000, "not today"))
    sockets.route("/raw")(lambda connection: begun.append(connection))

    @sockets.on_close
    def closed(code):
        closes.append(code)

    client = serve(app).connect("/raw")
    assert client.recv_close() == (4000, "not today")
    client.send_close(4000)
    wait_until(lambda: closes, "on_close")
    assert (begun, closes) == ([], [4000])

"""One connection as handlers see it: sending, receiving, closing, keeping alive."""

import re
import socket
import threading
import time
import urllib.request

import gevent
import pytest
import websocket
from support import configure
from support import the_connection
from support import wait_until
from websocket import ABNF

from flask_websockets import ConnectionClosed
from flask_websockets import copy_current_socket_context
from flask_websockets import ws


@pytest.fixture
def spawn(request: pytest.FixtureRequest):
    """Start a task of the kind that the server runs handlers in."""

    def start_thread(function):
        threading.Thread(target=function).start()

    return {"threads": start_thread, "gevent": gevent.spawn}[request.node.callspec.params["serve"]]


def wait_for_end(client):
    """Wait for the end of the TCP connection, before which all handlers have run."""
    assert client.sock.recv(1) == b""


def caught(function, *args):
    """The exception that *function* raises, as text that can be sent."""
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# Sending


def test_threads_that_send_at_once_send_whole_frames_in_order(app, sockets, serve):
    count, each = 8, 40
    client = serve(app).connect()
    connection = the_connection(sockets)

    def message(number, index):
        # Some larger than what the kernel takes at once.
        size = 300_000 if index % 10 == 0 else 100
        return f"{number} {index} ".encode().ljust(size, b".")

    def send(number):
        for index in range(each):
            connection.send(message(number, index))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    received = [client.recv() for _ in range(count * each)]
    for thread in threads:
        thread.join()
    for number in range(count):
        theirs = [data for data in received if data.startswith(b"%d " % number)]
        assert theirs == [message(number, index) for index in range(each)]


def test_a_thread_sends_while_handlers_reply(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    connection = the_connection(sockets)

    def push():
        for index in range(200):
            connection.send(f"push {index}")

    thread = threading.Thread(target=push)
    thread.start()
    for index in range(200):
        client.send(f"echo {index}")
    received = [client.recv() for _ in range(400)]
    thread.join()
    for kind in ("push", "echo"):
        assert [text for text in received if text.startswith(kind)] == [
            f"{kind} {index}" for index in range(200)
        ]


def test_what_can_be_sent(app, sockets, serve):
    @sockets.on_open
    def hello():
        ws.send("é")
        ws.send(b"bytes")
        ws.send(bytearray(b"bytearray"))
        ws.send(memoryview(b"memoryview"))
        ws.send("")

    client = serve(app).connect()
    assert [client.recv() for _ in range(5)] == ["é", b"bytes", b"bytearray", b"memoryview", ""]


def test_what_cannot_be_sent(app, sockets, serve):
    @sockets.on_open
    def hello():
        return caught(ws.send, {"a": 1})

    assert serve(app).connect().recv() == (
        "TypeError: A message is str, bytes, bytearray or memoryview, not dict. For JSON, use "
        "send_json()."
    )


def test_text_that_is_no_unicode_does_not_break_the_connection(app, sockets, serve):
    @sockets.on_open
    def hello():
        return caught(ws.send, "\ud800").split(":")[0]

    assert serve(app).connect().recv() == "UnicodeEncodeError"


def test_send_json(app, sockets, serve):
    @sockets.on_open
    def hello():
        ws.send_json({"a": [1, None]})
        ws.send_json("x", dumps=lambda obj: f"<{obj}>")
        return caught(ws.send_json, object()).split(":")[0]

    client = serve(app).connect()
    assert [client.recv() for _ in range(3)] == ['{"a": [1, null]}', "<x>", "TypeError"]


def test_send_after_close(app, sockets, serve):
    errors = []

    @sockets.on_message
    def handler(message):
        ws.close(4000, "bye")
        try:
            ws.send("too late")
        except ConnectionClosed as error:
            errors.append((error.code, error.reason, str(error)))

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert errors == [(4000, "bye", "the connection is closed with code 4000: bye")]


def test_send_after_the_client_closed(app, sockets, serve):
    errors = []

    @sockets.on_close
    def closed():
        try:
            ws.send("too late")
        except ConnectionClosed as error:
            errors.append((error.code, error.reason))
            raise

    client = serve(app).connect()
    client.send_close(4000, b"bye")
    client.recv_close()
    wait_for_end(client)
    assert errors == [(4000, "bye")]


def test_a_loop_that_only_sends_notices_the_clients_close(app, sockets, serve, closes):
    errors = []

    @sockets.route("/ticks")
    def ticks(ws):
        try:
            while True:
                ws.send("tick")
        except ConnectionClosed as error:
            errors.append((error.code, error.reason))

    client = serve(app).connect("/ticks")
    assert client.recv() == "tick"
    client.send_close(4000, b"enough")
    while (received := client.recv_data())[0] == ABNF.OPCODE_TEXT:
        pass
    assert received == (ABNF.OPCODE_CLOSE, (4000).to_bytes(2, "big"))
    wait_for_end(client)
    assert errors == closes == [(4000, "enough")]


def test_a_loop_that_looks_at_closed_notices_the_clients_close(app, sockets, serve, closes):
    @sockets.route("/wait")
    def wait(ws):
        ws.send("waiting")
        while not ws.closed:
            pass

    client = serve(app).connect("/wait")
    assert client.recv() == "waiting"
    client.send_close(4000, b"enough")
    assert client.recv_close() == (4000, "")
    wait_for_end(client)
    assert closes == [(4000, "enough")]


# Receiving


def test_receive_in_a_handler_takes_the_next_message(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        return f"{message} then {ws.receive()}"

    client = serve(app).connect()
    for message in ("a", "b", "c", "d"):
        client.send(message)
    assert [client.recv(), client.recv()] == ["a then b", "c then d"]


def test_receive_with_a_timeout(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        ws.send(repr(ws.receive(timeout=0.01)))
        ws.send(repr(ws.receive(timeout=10)))

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "None"
    client.send_binary(b"in time")
    assert client.recv() == "b'in time'"


def test_receive_in_time_shorter_than_the_pings(app, serve):
    sockets = configure(app, ping_interval=0.01, ping_timeout=10)

    @sockets.on_message
    def handler(message):
        started = time.monotonic()
        first = ws.receive(timeout=0.1)
        return f"{first} {time.monotonic() - started >= 0.1}"

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "None True"


def test_receive_nowait(app, sockets, serve):
    @sockets.on_message("start")
    def handler(message):
        ws.send(repr(ws.receive_nowait()))
        first = ws.receive()  # both came at once
        return f"{first} {ws.receive_nowait()} {ws.receive_nowait()}"

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "None"
    client.sock.sendall(b"\x81\x81\0\0\0\0a" + b"\x81\x81\0\0\0\0b")
    assert client.recv() == "a b None"


def test_receive_json(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        ws.send("ready")
        return repr((ws.receive_json(), ws.receive_json(), ws.receive_json(loads=len)))

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "ready"
    client.send('{"a": [1, null]}')
    client.send_binary(b"[1.5]")
    client.send("12345")
    assert client.recv() == "({'a': [1, None]}, [1.5], 5)"


def test_receive_json_that_does_not_come_or_is_none(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        ws.send(caught(ws.receive_json, 0.01))
        ws.send(caught(ws.receive_json).split(":")[0])

    client = serve(app).connect()
    client.send("start")
    assert client.recv() == "TimeoutError: no message came within 0.01 seconds"
    client.send("{")
    assert client.recv() == "JSONDecodeError"


def test_iteration_ends_at_the_close(app, sockets, serve, closes):
    seen = []

    @sockets.on_message
    def handler(message):
        seen.extend([message, *ws])
        seen.append((ws.close_code, ws.close_reason))

    client = serve(app).connect()
    client.send("a")
    client.send_binary(b"b")
    client.send_close(4000, b"bye")
    client.recv_close()
    wait_for_end(client)
    assert seen == ["a", b"b", (4000, "bye")]
    assert closes == [(4000, "bye")]


def test_receive_after_the_close(app, sockets, serve):
    errors = []

    @sockets.on_close
    def closed():
        errors.append(caught(ws.receive))
        errors.append(caught(ws.receive_nowait))
        errors.append(caught(ws.receive_json, 1))
        errors.extend(ws)

    client = serve(app).connect()
    client.send_close(4000, b"bye")
    client.recv_close()
    wait_for_end(client)
    assert errors == ["ConnectionClosed: the connection is closed with code 4000: bye"] * 3


def test_nothing_is_received_after_our_close(app, sockets, serve):
    errors = []

    @sockets.on_message
    def handler(message):
        ws.close(4000, "bye")
        errors.append(caught(ws.receive))

    client = serve(app).connect()
    client.sock.sendall(b"\x81\x81\0\0\0\0a" + b"\x81\x81\0\0\0\0b")
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert errors == ["ConnectionClosed: the connection is closed with code 4000: bye"]


_TWO_RECEIVERS = (
    "RuntimeError: Another thread or greenlet is receiving on this connection already. "
    "Let one receive, and hand the messages on."
)


def test_a_second_receiver_is_an_error(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    connection = the_connection(sockets)
    wait_until(lambda: connection._link.is_receiving, "the server receives")
    assert caught(connection.receive) == _TWO_RECEIVERS
    assert caught(connection.receive_nowait) == _TWO_RECEIVERS
    client.send("still here")
    assert client.recv() == "still here"


def test_a_task_that_receives_on_when_its_handler_is_over(app, sockets, serve, spawn, log, closes):
    @sockets.on_message
    def handler(message):
        @copy_current_socket_context
        def receive():
            ws.receive()

        spawn(lambda: caught(receive))
        while not ws._link.is_receiving:
            gevent.sleep(0)

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    wait_until(lambda: closes, "on_close")
    (record,) = log
    assert f"RuntimeError: {record.exc_info[1]}" == _TWO_RECEIVERS
    assert closes == [(1011, "")]


def test_a_native_thread_receives(app, sockets, serve):
    # A thread that is not the server's cannot wait in gevent's hub by itself.
    @sockets.route("/raw")
    def raw(ws):
        received = []

        def receive():
            received.append(caught(lambda: received.append(ws.receive(10))))

        thread = threading.Thread(target=receive)
        thread.start()
        while thread.is_alive() and not ws._link.is_receiving:
            gevent.sleep(0.001)
        ws.send("ready")
        while thread.is_alive():
            gevent.sleep(0.001)
        return repr(received)

    client = serve(app).connect("/raw")
    assert client.recv() == "ready"
    client.send("x")
    assert client.recv() == "['x', 'nothing']"


# Closing


@pytest.mark.parametrize("count", [31, 32, 33, 64, 100])
def test_a_close_right_behind_many_messages(app, sockets, serve, closes, count):
    # Others have a turn after some of them, and the Close is not forgotten over that.
    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    close = ABNF.create_frame(b"\x0f\xa0", ABNF.OPCODE_CLOSE).format()
    client.sock.sendall(ABNF.create_frame("x", ABNF.OPCODE_TEXT).format() * count + close)
    assert [client.recv() for _ in range(count)] == ["x"] * count
    assert client.recv_close() == (4000, "")
    wait_for_end(client)
    assert closes == [(4000, "")]


def test_close_twice(app, sockets, serve, closes):
    @sockets.on_message
    def handler(message):
        ws.close(4000, "first")
        ws.close(4001, "second")

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (4000, "first")
    wait_for_end(client)
    assert closes == [(4000, "first")]


def test_close_is_1000_unless_said_otherwise(app, sockets, serve, closes):
    @sockets.on_message
    def handler(message):
        ws.close()

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1000, "")
    wait_for_end(client)
    assert closes == [(1000, "")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2000, 2999, 5000])
def test_a_code_that_may_not_be_sent(app, sockets, serve, code):
    @sockets.on_message
    def handler(message):
        return f"{caught(ws.close, code)} {ws.connected}"

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == (
        f"ValueError: Close code {code} may not be sent. Use 1000 to 1003, 1007 to 1014, or 3000 "
        "to 4999 for codes of your own. True"
    )


def test_a_reason_that_is_too_long(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        ws.send(f"{caught(ws.close, 1000, 'é' * 62)} {ws.connected}")
        ws.close(1000, "é" * 61)

    client = serve(app).connect()
    client.send("x")
    assert client.recv() == (
        "ValueError: The close reason is 124 bytes long in UTF-8. At most 123 fit in a Close "
        "frame. True"
    )
    assert client.recv_close() == (1000, "é" * 61)


def test_a_view_closes_all_clients(app, sockets, serve, closes):
    @app.get("/close-all")
    def close_all():
        for client in sockets.clients:
            client.close(4000, "all")
        return "closed"

    server = serve(app)
    clients = [server.connect() for _ in range(3)]
    wait_until(lambda: len(sockets.clients) == 3, "three connections")
    with urllib.request.urlopen(server.http("/close-all"), timeout=10) as response:
        assert response.read() == b"closed"
    for client in clients:
        assert client.recv_close() == (4000, "all")
        wait_for_end(client)
    assert closes == [(4000, "all")] * 3
    assert len(sockets.clients) == 0


def test_a_handler_closes_another_connection(app, sockets, serve, closes):
    @sockets.on_message
    def handler(message):
        for client in sockets.clients:
            if client.id != ws.id:
                client.close(4000, "kicked")
        return "done"

    server = serve(app)
    other = server.connect()
    the_connection(sockets)
    client = server.connect()
    client.send("x")
    assert client.recv() == "done"
    assert other.recv_close() == (4000, "kicked")
    wait_for_end(other)
    assert closes == [(4000, "kicked")]


def test_a_peer_that_never_answers_our_close(app, serve):
    sockets = configure(app, close_timeout=0.2)
    closes = []

    @sockets.on_message
    def handler(message):
        ws.close(4000, "bye")

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason, ws.connected, ws.closed))

    client = serve(app).connect()
    client.send("x")
    # It reads the Close frame and the end, and never says a word.
    assert client.sock.recv(100) == b"\x88\x05\x0f\xa0bye"
    assert client.sock.recv(100) == b""
    assert closes == [(4000, "bye", False, True)]


def test_a_peer_that_never_answers_the_close_of_another_thread(app, serve):
    sockets = configure(app, close_timeout=0.2)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    client = serve(app).connect()
    the_connection(sockets).close(4000, "bye")
    assert client.sock.recv(100) == b"\x88\x05\x0f\xa0bye"
    assert client.sock.recv(100) == b""
    wait_until(lambda: closes, "on_close")
    assert closes == [(4000, "bye")]


def test_a_peer_that_never_hangs_up(app, serve):
    sockets = configure(app, close_timeout=0.2)
    client = serve(app).connect()
    the_connection(sockets)
    client.send_close(4000)
    assert client.recv_close() == (4000, "")
    wait_for_end(client)
    # Once it has had its time, what it sends is refused.
    wait_until(lambda: caught(client.sock.sendall, b"x").split(":")[0] != "nothing", "a reset")


# What it says of itself


def test_connecting_connected_closed(app, sockets, serve):
    seen = []

    def look():
        seen.append((ws.connecting, ws.connected, ws.closed, ws.close_code, ws.close_reason))

    @sockets.before_open
    def before_open():
        look()

    @sockets.on_open
    def on_open():
        look()

    @sockets.on_message
    def on_message(message):
        look()
        ws.close(4000, "bye")
        look()

    @sockets.before_close
    def before_close():
        look()

    @sockets.on_close
    def on_close():
        look()

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (4000, "bye")
    wait_for_end(client)
    assert seen == [
        (True, False, False, None, None),
        (False, True, False, None, None),
        (False, True, False, None, None),
        (False, True, False, None, None),
        (False, False, True, 4000, "bye"),
        (False, False, True, 4000, "bye"),
    ]


def test_the_handshake_cannot_send_receive_or_close(app, sockets, serve):
    seen = []

    @sockets.before_open
    def before_open():
        for function, *args in (
            (ws.send, "x"),
            (ws.receive,),
            (ws.ping,),
            (ws.close,),
        ):
            seen.append(caught(function, *args))

    serve(app).connect()
    not_open = "RuntimeError: The connection is not open yet. "
    assert seen == [
        *[not_open + "Send and receive from on_open onwards."] * 3,
        not_open + "In before_open, use abort().",
    ]


def test_ids_are_unique_and_repr_names_them(app, sockets, serve):
    @sockets.on_open
    def hello():
        return f"{ws.id} {ws!r}"

    server = serve(app)
    replies = [server.connect().recv() for _ in range(5)]
    for reply in replies:
        assert re.fullmatch(r"([0-9a-f]{16}) <WebSocket \1 open>", reply)
    assert len({reply.split()[0] for reply in replies}) == 5


def test_state_lasts_as_long_as_the_connection(app, sockets, serve):
    @sockets.before_open
    def before_open():
        ws.state.seen = ["before_open"]

    @sockets.on_message
    def handler(message):
        ws.state.seen.append(message)
        return " ".join(ws.state.seen)

    server = serve(app)
    client, other = server.connect(), server.connect()
    client.send("a")
    assert client.recv() == "before_open a"
    client.send("b")
    assert client.recv() == "before_open a b"
    other.send("c")
    assert other.recv() == "before_open c"


# Subprotocols


def offer(*names):
    """The header that offers *names*; websocket-client's option wants one to be taken."""
    return {"Sec-WebSocket-Protocol": ", ".join(names)}


def test_the_first_subprotocol_of_ours_that_is_offered_is_taken(app, serve):
    sockets = configure(app, subprotocols=["c", "b", "a"])

    @sockets.on_open
    def hello():
        return f"{ws.subprotocols} {ws.subprotocol}"

    server = serve(app)
    client = server.connect(subprotocols=["a", "b"])
    assert client.recv() == "('a', 'b') b"
    assert client.getsubprotocol() == "b"
    client = server.connect(header=offer("x"))
    assert client.recv() == "('x',) None"
    assert "sec-websocket-protocol" not in client.headers
    assert server.connect().recv() == "() None"


def test_accept_chooses_the_subprotocol(app, serve):
    sockets = configure(app, subprotocols=["a"])

    @sockets.before_open
    def choose():
        ws.accept(ws.subprotocols[-1])

    @sockets.on_open
    def hello():
        return ws.subprotocol

    client = serve(app).connect(subprotocols=["a", "b"])
    assert client.recv() == "b"
    assert client.getsubprotocol() == "b"


def test_accept_may_choose_none(app, serve):
    sockets = configure(app, subprotocols=["a"])

    @sockets.before_open
    def choose():
        ws.accept()

    @sockets.on_open
    def hello():
        return repr(ws.subprotocol)

    client = serve(app).connect(header=offer("a"))
    assert client.recv() == "None"
    assert "sec-websocket-protocol" not in client.headers


@pytest.mark.parametrize(("offered", "shown"), [(offer("a", "b"), "a, b"), (None, "none")])
def test_accept_takes_only_what_is_offered(app, sockets, serve, offered, shown):
    seen = []

    @sockets.before_open
    def choose():
        seen.append(caught(ws.accept, "x"))

    serve(app).connect(header=offered)
    assert seen == [f"ValueError: The client offers no subprotocol 'x'. It offers {shown}."]


def test_accept_comes_too_late_once_the_connection_is_open(app, sockets, serve):
    @sockets.on_open
    def hello():
        return caught(ws.accept)

    assert serve(app).connect().recv() == (
        "RuntimeError: The connection is open already. Call accept() in before_open."
    )


# Pings


def test_a_ping_is_answered_while_nothing_else_happens(app, sockets, serve):
    client = serve(app).connect()
    client.ping("payload")
    assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"payload")


def test_ping_and_latency(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        if message == "ping":
            before = ws.latency
            ws.ping(b"payload")
            return repr(before)
        return f"{ws.latency:f}"

    client = serve(app).connect()
    client.send("ping")
    # recv_data answers it.
    assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PING, b"payload")
    assert client.recv() == "None"
    client.send("latency")
    assert 0 < float(client.recv()) < 10


def test_a_pong_that_answers_no_ping_is_no_latency(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        return repr(ws.latency)

    client = serve(app).connect()
    client.pong("unasked")
    client.send("latency")
    assert client.recv() == "None"


def test_a_ping_that_is_too_long(app, sockets, serve):
    @sockets.on_open
    def hello():
        return caught(ws.ping, b"x" * 126)

    assert serve(app).connect().recv() == ("ValueError: A Ping carries at most 125 bytes, not 126.")


def test_a_client_that_answers_nothing_is_given_up(app, serve):
    sockets = configure(app, ping_interval=0.1, ping_timeout=0.1)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    client = serve(app).connect()
    wait_until(lambda: closes, "on_close")
    assert closes == [(1006, "no answer to a ping")]
    head = client.sock.recv(6)
    assert head[:2] == b"\x89\x04"
    wait_for_end(client)


def test_a_client_that_answers_pings_stays(app, serve):
    sockets = configure(app, ping_interval=0.02, ping_timeout=5)

    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    # There is no second ping without a sign of life after the first.
    for _ in range(5):
        assert client.recv_data(control_frame=True)[0] == ABNF.OPCODE_PING
    client.send("still here")
    while (received := client.recv_data(control_frame=True))[0] == ABNF.OPCODE_PING:
        pass
    assert received == (ABNF.OPCODE_TEXT, b"still here")


def test_pings_go_on_while_a_loop_receives_with_a_timeout(app, serve):
    sockets = configure(app, ping_interval=0.05, ping_timeout=0.05)
    closes = []

    @sockets.route("/raw")
    def raw(ws):
        while not ws.closed:
            ws.receive(timeout=0.01)

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    serve(app).connect("/raw")
    wait_until(lambda: closes, "on_close")
    assert closes == [(1006, "no answer to a ping")]


def test_pings_go_on_while_a_loop_receives_without_waiting(app, serve):
    sockets = configure(app, ping_interval=0.05, ping_timeout=0.05)
    closes = []

    @sockets.route("/raw")
    def raw(ws):
        while not ws.closed:
            ws.receive_nowait()

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    serve(app).connect("/raw")
    wait_until(lambda: closes, "on_close")
    assert closes == [(1006, "no answer to a ping")]


def test_a_peer_that_takes_nothing_is_lost(app, serve):
    sockets = configure(app, ping_interval=0.1, ping_timeout=0.1)
    errors, closes = [], []

    @sockets.route("/flood")
    def flood(ws):
        try:
            while True:
                ws.send(b"x" * 65536)
        except ConnectionClosed as error:
            errors.append(error.code)
            raise

    @sockets.on_close
    def closed(code):
        closes.append(code)

    serve(app).connect("/flood", sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    wait_until(lambda: closes, "on_close")
    assert errors == [1006]
    assert closes == [1006]


# Sizes


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_large_message_both_ways(app, serve, kind):
    sockets = configure(app, max_message_size=6 << 20)
    message = "0123456789abcdef" * (5 << 16)
    assert len(message) == 5 << 20

    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    if kind is str:
        client.send(message)
        assert client.recv() == message
    else:
        client.send_binary(message.encode())
        assert client.recv() == message.encode()


def test_a_message_over_the_limit(app, serve):
    sockets = configure(app, max_message_size=100)
    closes = []

    @sockets.on_message
    def echo(message):
        return message

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    client = serve(app).connect()
    client.send("x" * 100)
    assert client.recv() == "x" * 100
    client.send("x" * 101)
    assert client.recv_close() == (1009, "a message may have 100 bytes at most")
    wait_for_end(client)
    assert closes == [(1009, "a message may have 100 bytes at most")]


def test_fragments_become_one_message(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    client.send_frame(websocket.ABNF(0, 0, 0, 0, ABNF.OPCODE_TEXT, 1, "one "))
    client.send_frame(websocket.ABNF(1, 0, 0, 0, ABNF.OPCODE_PING, 1, b"between"))
    client.send_frame(websocket.ABNF(1, 0, 0, 0, ABNF.OPCODE_CONT, 1, "message"))
    assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"between")
    assert client.recv() == "one message"

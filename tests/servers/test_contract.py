"""What every server must do, whatever it is: one suite for all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
import struct

import pytest
import websocket
from harness import frame
from harness import HANDSHAKE
from harness import open_raw
from harness import Process
from harness import read_to_end

CLOSE_1000 = b"\x88\x02\x03\xe8"


def test_echoes_text_and_binary(server: Process):
    client = server.connect()
    client.send("héllo")
    assert client.recv() == "héllo"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"
    client.close()


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3_000_000])
def test_echoes_messages_of_any_size(server: Process, size: int):
    client = server.connect()
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    client.send_binary(payload)
    assert client.recv() == payload
    client.close()


def test_answers_many_messages_in_order(server: Process):
    client = server.connect()
    for number in range(200):
        client.send(f"message {number}")
    assert [client.recv() for _ in range(200)] == [f"message {n}" for n in range(200)]
    client.close()


def test_frames_that_come_with_the_request_are_kept(server: Process):
    with open_raw(server, after=frame(1, b"early") + frame(1, b"bird")) as sock:
        expected = b"\x81\x05early\x81\x04bird"
        received = b""
        while len(received) < len(expected):
            received += sock.recv(100)
        assert received == expected


def test_the_101_carries_what_the_flask_response_carries(server: Process):
    client = server.connect("/?name=ada", subprotocols=["v1", "v2"])
    headers = client.getheaders()
    assert client.getstatus() == 101
    assert headers["x-after-request"] == "ran"
    assert headers["sec-websocket-protocol"] == "v2"
    assert "sec-websocket-extensions" not in headers
    assert not {"content-length", "content-type", "transfer-encoding"} & set(headers)
    cookie = headers["set-cookie"].partition(";")[0]
    client.send("VISITS")
    assert client.recv() == "1 ada"
    client.close()

    client = server.connect("/?name=eve", cookie=cookie)
    client.send("VISITS")
    assert client.recv() == "2 eve"
    client.close()


def test_plain_requests_pass_through(server: Process):
    assert server.request("/")[::2] == (200, "a page")


def test_a_plain_request_to_a_socket_gets_426(server: Process):
    status, head, body = server.request("/guarded")
    assert status == 426
    assert re.search(r"(?im)^upgrade: websocket\r?$", head)
    assert re.search(r"(?im)^sec-websocket-version: 13\r?$", head)
    assert body == (
        "This URL serves WebSockets only: the request must ask for Upgrade: websocket.\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "method", "status", "sentence"),
    [
        (
            "Version: 13", "Version: 8", "GET", 426,
            "Sec-WebSocket-Version must be 13; this server speaks no other.",
        ),
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", "", "GET", 400,
            "The Sec-WebSocket-Key field is missing.",
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "GET", 400,
            "Sec-WebSocket-Key must be the base64 form of 16 bytes.",
        ),
        (
            "Connection: Upgrade", "Connection: close", "GET", 400,
            "The Connection field of a WebSocket handshake must contain the token Upgrade.",
        ),
        ("", "", "DELETE", 400, "A WebSocket handshake is a GET request, not DELETE."),
    ],
)  # fmt: skip
def test_a_malformed_handshake_is_refused_with_a_sentence(
    server: Process, old: str, new: str, method: str, status: int, sentence: str
):
    head = HANDSHAKE.replace(old, new) if old else HANDSHAKE
    got, response, body = server.request("/guarded?key=1", head, method)
    assert (got, body) == (status, sentence + "\n")
    if status == 426:
        assert re.search(r"(?im)^sec-websocket-version: 13\r?$", response)


def test_a_handshake_at_an_unknown_url_gets_404(server: Process):
    assert server.request("/nowhere", HANDSHAKE)[0] == 404


def test_abort_in_before_open_is_an_http_response(server: Process):
    status, head, _ = server.request("/guarded", HANDSHAKE)
    assert status == 401
    assert "X-After-Request: ran" in head
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        server.connect("/guarded")
    server.connect("/guarded?key=1").close()


def test_the_client_closes(server: Process):
    with open_raw(server) as sock:
        sock.sendall(frame(8, b"\x03\xe8bye"))
        assert read_to_end(sock) == CLOSE_1000
    server.wait_for_log("closed 1000 'bye'")
    assert "Traceback" not in server.log()


def test_the_handler_closes(server: Process):
    with open_raw(server) as sock:
        sock.sendall(frame(1, b"CLOSE"))
        expected = b"\x88\x0a\x0f\xa0as asked"
        received = b""
        while len(received) < len(expected):
            received += sock.recv(100)
        assert received == expected
        sock.sendall(frame(8, b"\x0f\xa0"))
        assert read_to_end(sock) == b""
    server.wait_for_log("closed 4000 'as asked'")
    assert "Traceback" not in server.log()


def test_bytes_behind_the_close_are_not_taken_for_http(server: Process):
    with open_raw(server) as sock:
        sock.sendall(frame(8, b"\x03\xe8") + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_to_end(sock) == CLOSE_1000
    server.wait_for_log("closed 1000")
    assert "Traceback" not in server.log()


def test_broken_frames_close_with_1002(server: Process):
    with open_raw(server) as sock:
        sock.sendall(b"\x81\x05hello")
        closing = read_to_end(sock)
    assert closing[0] == 0x88
    assert closing[2:] == b"\x03\xeaa client's frames must be masked"
    server.wait_for_log("closed 1002")
    assert "Traceback" not in server.log()


def test_a_client_that_vanishes_is_noticed(server: Process):
    sock = open_raw(server)
    sock.sendall(frame(1, b"hello"))
    assert sock.recv(100)[:2] == b"\x81\x05"
    # An RST in place of a FIN.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    server.wait_for_log("closed 1006")
    assert "Traceback" not in server.log()


def test_an_exception_in_a_handler_closes_with_1011(server: Process):
    other = server.connect()
    client = server.connect()
    client.send("FAIL")
    assert client.recv_close() == (1011, "")
    client.shutdown()
    server.wait_for_log("ZeroDivisionError: on purpose")
    server.wait_for_log("closed 1011")
    assert server.log().count("Traceback") == 1
    other.send("still here")
    assert other.recv() == "still here"
    other.close()


def test_abort_in_a_handler_sends_no_page(server: Process):
    with open_raw(server) as sock:
        sock.sendall(frame(1, b"ABORT"))
        assert read_to_end(sock) == b"\x88\x02\x03\xf3"
    server.wait_for_log("closed 1011")


def test_connections_leave_no_descriptor_behind(server: Process):
    descriptors = pathlib.Path(f"/proc/{server.worker_pid()}/fd")

    def sockets() -> int:
        links = []
        for entry in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(entry))
        return sum(link.startswith("socket:") for link in links)

    clients = [server.connect() for _ in range(30)]
    assert sockets() >= 30
    for number, client in enumerate(clients):
        if number % 2:
            client.close()
        else:
            client.shutdown()
    # What a server has for itself is a handful.
    server.wait_for(lambda: sockets() < 10, "the descriptors are closed")


def test_broadcast_reaches_a_room(server: Process):
    red, blue, green = (
        server.connect("/chat/a"),
        server.connect("/chat/a"),
        server.connect("/chat/b"),
    )
    assert [client.recv() for client in (red, blue, green)] == ["in a", "in a", "in b"]
    red.send("hello")
    assert [red.recv(), blue.recv()] == ["hello", "hello"]
    scheme = "ws" if server.tls is None else "wss"
    assert server.request("/say/b/hi")[2] == f"{scheme}://localhost:{server.port}/chat/b"
    assert green.recv() == "hi"
    for client in (red, blue, green):
        client.close()


def test_a_loop_reads_and_writes_as_it_likes(server: Process):
    client = server.connect("/loop/2")
    client.send("one")
    assert client.recv() == "got one"
    client.send("two")
    assert client.recv() == "got two"
    assert client.recv() == "bye"
    assert client.recv_close() == (1000, "")
    client.shutdown()


def test_a_loop_is_told_when_the_client_leaves(server: Process):
    client = server.connect("/loop/2")
    client.close(status=1001)
    server.wait_for_log("loop ended 1001")
    assert "Traceback" not in server.log()


def test_streams_and_receives_inside_a_handler(server: Process):
    client = server.connect()
    client.send("STREAM")
    assert [client.recv() for _ in range(3)] == ["0", "1", "2"]
    client.send("RECEIVE")
    client.send("one")
    client.send("two")
    assert client.recv() == "first 'one', then 'two'"
    client.close()


def test_teardown_functions_run(server: Process):
    client = server.connect()
    client.send("hello")
    assert client.recv() == "hello"
    client.send("TEARDOWNS")
    assert client.recv() == "True"
    client.close()


def test_url_for_in_a_template_of_a_handler(server: Process):
    client = server.connect()
    client.send("URL")
    scheme = "ws" if server.tls is None else "wss"
    assert client.recv() == f"{scheme}://localhost:{server.port}/"
    client.close()


def test_idle_connections_do_not_keep_others_waiting(server: Process):
    idle = [server.connect() for _ in range(20)]
    assert server.request("/")[0] == 200
    for number, client in enumerate(idle):
        client.send(str(number))
    assert [client.recv() for client in idle] == [str(number) for number in range(20)]
    for client in idle:
        client.close()

"""Each server started for real, in a process of its own, with the app of the contract."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import typing as t

import pytest
import trustme
import websocket

HERE = pathlib.Path(__file__).parent
TIMEOUT = 10.0
_RUN = [sys.executable, str(HERE / "run.py")]
_GUNICORN = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "--access-logfile", "-"]
_FLASK = [sys.executable, "-m", "flask", "--app", str(HERE / "app.py")]

#: What starts each server; PORT is filled in.
COMMANDS = {
    "pywsgi": [*_RUN, "pywsgi", "PORT"],
    "geventwebsocket": [*_RUN, "geventwebsocket", "PORT"],
    "gunicorn-gevent": [*_GUNICORN, "-k", "gevent", "-b", "127.0.0.1:PORT", "app:app"],
    "gunicorn-gevent_pywsgi": [
        *_GUNICORN, "-k", "gevent_pywsgi", "-b", "127.0.0.1:PORT", "app:app"
    ],
    "gunicorn-gthread": [
        *_GUNICORN, "-k", "gthread", "--threads", "40", "-b", "127.0.0.1:PORT", "app:app"
    ],
    "flask-run": [*_FLASK, "run", "--port", "PORT"],
    "flask-run-debug": [*_FLASK, "--debug", "run", "--port", "PORT"],
    "app-run": [*_RUN, "werkzeug", "PORT"],
}  # fmt: skip
TLS_COMMANDS = {
    "pywsgi": [*_RUN, "pywsgi", "PORT", "CERTIFICATE", "KEY"],
    "geventwebsocket": [*_RUN, "geventwebsocket", "PORT", "CERTIFICATE", "KEY"],
    **{
        name: [*COMMANDS[name], "--certfile", "CERTIFICATE", "--keyfile", "KEY"]
        for name in ("gunicorn-gevent", "gunicorn-gevent_pywsgi", "gunicorn-gthread")
    },
    "flask-run": [*COMMANDS["flask-run"], "--cert", "CERTIFICATE", "--key", "KEY"],
    "app-run": [*_RUN, "werkzeug", "PORT", "CERTIFICATE", "KEY"],
}


class Client(websocket.WebSocket):
    """websocket-client, with the Close frame read as code and reason."""

    def recv_close(self) -> tuple[int, str]:
        opcode, data = self.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE, (opcode, data)
        return (int.from_bytes(data[:2], "big") if data else 1005), data[2:].decode()


class Process:
    """A server in a process of its own, and its log.

    :param command: what starts it, with PORT where the port goes.
    :param log: the file that takes what it prints.
    """

    def __init__(
        self,
        command: t.Sequence[str],
        log: pathlib.Path,
        *,
        tls: ssl.SSLContext | None = None,
        environ: t.Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.tls = tls
        self.log_path = log
        self._mark = 0
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [part.replace("PORT", str(self.port)) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
                cwd=cwd,
                start_new_session=True,
            )
        try:
            self.wait_for(self._answers, "the server answers")
        except BaseException:
            self.stop()
            raise

    def worker_pid(self) -> int:
        """The process that serves: the youngest below the one that was started."""
        pid = self.process.pid
        while children := self._children(pid):
            pid = children[-1]
        return pid

    @staticmethod
    def _children(pid: int) -> list[int]:
        path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in path.read_text().split()]

    def stop(self) -> None:
        """End it, and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(TIMEOUT)

    def wait_for(self, condition: t.Callable[[], t.Any], what: str) -> None:
        """Look until *condition* holds; fail with the log if it does not in time."""
        deadline = time.monotonic() + 2 * TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"never happened: {what}\n{self.log()}")
            time.sleep(0.01)

    def mark(self) -> None:
        """Let :meth:`log` begin here."""
        self._mark = self.log_path.stat().st_size

    def log(self) -> str:
        """What it printed since the mark."""
        return self.log_path.read_bytes()[self._mark :].decode(errors="replace")

    def wait_for_log(self, text: str) -> None:
        self.wait_for(lambda: text in self.log(), f"{text!r} in the log")

    def socket(self) -> socket.socket:
        """A TCP connection, with TLS where the server has it."""
        sock = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname="localhost")
        return sock

    def connect(self, path: str = "/", **options: t.Any) -> Client:
        client = Client(sslopt={"context": self.tls} if self.tls else {})
        client.settimeout(TIMEOUT)
        client.connect(self.url(path), **options)
        return client

    def url(self, path: str = "/") -> str:
        """The URL of a socket there."""
        scheme = "ws" if self.tls is None else "wss"
        return f"{scheme}://localhost:{self.port}{path}"

    def request(self, path: str, head: str = "", method: str = "GET") -> tuple[int, str, str]:
        """One HTTP/1.1 request. Returns the status, the head and the body."""
        with self.socket() as sock:
            lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}"]
            lines += [line for line in head.splitlines() if line] + ["Connection: close"] * (
                "Connection:" not in head
            )
            sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            return read_response(sock)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the server ended with {self.process.returncode}\n{self.log()}")
        try:
            return self.request("/")[0] < 500
        except OSError:
            return False


def read_response(sock: socket.socket) -> tuple[int, str, str]:
    """Read one HTTP response from *sock*: the status, the head and the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError(f"no response, only {data!r}")
        data += piece
    raw_head, _, body = data.partition(b"\r\n\r\n")
    head = raw_head.decode("latin-1")
    lines = [line.lower() for line in head.splitlines()]
    lengths = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    status = int(head.split()[1])
    while status != 101 and (not lengths or len(body) < lengths[0]):
        piece = sock.recv(65536)
        if not piece:
            break
        body += piece
    return status, head, body.decode("latin-1")


def read_to_end(sock: socket.socket) -> bytes:
    """All bytes up to the end of the connection; a reset, or an alert of TLS, is an end too."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return data


HANDSHAKE = """\
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13
"""


def open_raw(server: Process, path: str = "/", after: bytes = b"") -> socket.socket:
    """Shake hands by hand, with bytes *after* the request in the same piece.

    The 101 is read, and what came behind it stays to be read.
    """
    sock = server.socket()
    head = f"GET {path} HTTP/1.1\nHost: localhost:{server.port}\n{HANDSHAKE}\n"
    sock.sendall(head.replace("\n", "\r\n").encode() + after)
    response = b""
    while not response.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, response
        response += byte
    assert response.startswith(b"HTTP/1.1 101 "), response
    return sock


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame of at most 125 bytes, masked with zeros."""
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload


class Certificate(t.NamedTuple):
    """A certificate for localhost: its files, by their place in a command, and who trusts it."""

    paths: dict[str, str]
    context: ssl.SSLContext


def make_certificate(folder: pathlib.Path) -> Certificate:
    """Write a certificate and its key to *folder*."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    paths = {"CERTIFICATE": str(folder / "certificate.pem"), "KEY": str(folder / "key.pem")}
    issued.private_key_pem.write_to_path(paths["KEY"])
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(paths["CERTIFICATE"], append=number > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Certificate(paths, context)


def needs(program: str) -> str:
    """The path of *program*; the test is skipped where it is missing."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        if "TESTS_REQUIRE_ALL" in os.environ:
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return found

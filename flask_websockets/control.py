"""The socket by which commands of the same user reach a running server.

Each process that serves has one, a Unix domain socket in a folder that only its user may
enter. A command connects to those of all processes, writes one line of JSON and reads one.
Knows the connections and rooms of an app, no handlers and no frames.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
import stat
import struct
import tempfile
import threading
import time
import typing as t
import weakref
from contextlib import suppress

from flask import Flask

from .connection import WebSocket
from .rooms import Rooms

#: Bytes of a request, and of the list of connections in an answer.
MAX_REQUEST: t.Final = 1 << 20
_MAX_LIST: t.Final = 8 << 20
_MAX_ANSWER: t.Final = 2 * _MAX_LIST

#: Seconds for a command to write its request, and for a process to answer it.
_REQUEST_TIME: t.Final = 5.0
ANSWER_TIME: t.Final = 10.0

#: Errors of accept() that pass.
_PASSING = {errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Answer = dict[str, t.Any]
_NO_ANSWER: t.Final = {"error": f"nothing came within {ANSWER_TIME:g} seconds"}


class Owner(t.Protocol):
    """What an app has of the extension, as far as commands are concerned."""

    @property
    def rooms(self) -> t.Mapping[t.Any, Rooms[WebSocket]]:
        """The connections of each ``WebSockets`` object."""


# Where the sockets are


def is_supported() -> bool:
    """Whether this system has what it takes."""
    return hasattr(socket, "AF_UNIX")


def identify(app: Flask) -> str:
    """A name for *app* that is the same in its servers and in commands."""
    # The module is __main__ in a server that is started by its file: app.name is not.
    name = app.name.rpartition(".")[2]
    identity = f"{os.path.realpath(app.root_path)}\0{name}"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _folders() -> list[str]:
    """Where a process may put its socket, the best place first."""
    places = [os.path.join(tempfile.gettempdir(), f"flask-websockets-{os.geteuid()}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        places.insert(0, os.path.join(runtime, "flask-websockets"))
    return places


def _check_folder(folder: str) -> None:
    """:raises OSError: unless *folder* is ours, and ours alone."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o77:
        raise PermissionError(
            errno.EPERM, "This must be a folder of mode 0700 that belongs to you", folder
        )


# The server's side


def open_control(app: Flask, owner: Owner) -> None:
    """Answer commands for *app* in this process, from now until it ends.

    Does not keep the app, nor the process.

    :param owner: what has the app's connections.
    :raises OSError: if there can be no socket.
    :raises RuntimeError: if there can be no thread.
    """
    if not is_supported():
        return
    name = f"{identify(app)}-{os.getpid()}-{secrets.token_hex(2)}.sock"
    path, listener = _open(name)
    listener.settimeout(None)
    if hasattr(listener, "ref"):
        listener.ref = False  # gevent's: a loop that nothing else keeps going may end
    weakref.finalize(owner, _stop, listener, path, os.getpid())
    reference = weakref.ref(listener)
    os.register_at_fork(after_in_child=lambda: _forget(reference()))
    threading.Thread(
        target=_serve,
        args=(listener, weakref.ref(owner)),
        name="flask-websockets-control",
        daemon=True,
    ).start()


def _open(name: str) -> tuple[str, socket.socket]:
    """Listen as *name* in the best folder that will do."""
    *others, last = _folders()
    for folder in others:
        with suppress(OSError):
            return _open_in(folder, name)
    return _open_in(last, name)


def _open_in(folder: str, name: str) -> tuple[str, socket.socket]:
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    _check_folder(folder)
    _remove_stale(folder)
    path = os.path.join(folder, name)
    return path, _listen(path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    hidden = path.removesuffix(".sock") + ".new"
    try:
        listener.bind(hidden)
        os.chmod(hidden, 0o600)
        listener.listen(16)
        # Whoever finds it under its name is answered, or its process is dead.
        os.rename(hidden, path)
    except BaseException:
        listener.close()
        with suppress(OSError):
            os.unlink(hidden)
        raise
    return listener


def _remove_stale(folder: str) -> None:
    """Remove the sockets of processes that were killed."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith((".sock", ".new")) and not _lives(_process(path)):
            with suppress(OSError):
                _connect(path).close()  # it removes what nobody listens on


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _stop(listener: socket.socket, path: str, pid: int) -> None:
    """The app or the process ends."""
    if os.getpid() != pid:
        return
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts


def _forget(listener: socket.socket | None) -> None:
    """In a forked child: the socket is its parent's."""
    if listener is None or listener.fileno() < 0:
        return
    # Not closed: a greenlet that waits for it has been forked too, and its loop must not
    # lose the descriptor. It goes on to wait, for something that never comes.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        os.dup2(silent.fileno(), listener.fileno(), inheritable=False)


def _serve(listener: socket.socket, owner: weakref.ref[Owner]) -> None:
    with listener:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError as error:
                if error.errno not in _PASSING:
                    return
                time.sleep(1)
                continue
            try:
                # In a thread of its own: a before_close function may take its time.
                threading.Thread(target=_answer, args=(connection, owner), daemon=True).start()
            except RuntimeError:
                connection.close()  # there can be no more threads


def _answer(connection: socket.socket, owner: weakref.ref[Owner]) -> None:
    with connection, suppress(OSError):
        if not _is_own_user(connection):
            return
        line = _read_line(connection, MAX_REQUEST, _REQUEST_TIME)
        if not line:
            return  # it only looked whether somebody is there
        try:
            answer = perform(owner(), json.loads(line))
        except Exception as error:  # the process has better things to do than to fail
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.settimeout(_REQUEST_TIME)
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _is_own_user(connection: socket.socket) -> bool:
    """The folder keeps others out already; this holds if its mode is ever changed."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", credentials)[1] == os.geteuid())


def _read_line(connection: socket.socket, limit: int, seconds: float) -> bytes:
    """One line, or what there is of it when *limit* or the end is reached.

    :raises TimeoutError: if it takes longer than *seconds*.
    """
    deadline = time.monotonic() + seconds
    line = bytearray()
    while len(line) <= limit and not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(65536)
        if not piece:
            break
        line += piece
    return bytes(line)


# What can be asked for


def perform(owner: Owner | None, request: t.Mapping[str, t.Any]) -> Answer:
    """Do what *request* says.

    :param request: ``command``, which is ``clients``, ``broadcast`` or ``close``, and its
        arguments.
    """
    every = [] if owner is None else list(owner.rooms.values())
    command = request["command"]
    if command == "clients":
        return _list(every)
    if command == "broadcast":
        return _broadcast(every, request["text"], request["to"], request["endpoint"])
    if command == "close":
        return _close(every, request["id"], request["code"], request["reason"])
    raise ValueError(f"This server knows no command {command!r}.")


def _list(every: t.Iterable[Rooms[WebSocket]]) -> Answer:
    clients: list[Answer] = []
    total = size = 0
    for rooms in every:
        for ws in rooms.members():
            total += 1
            if size < _MAX_LIST:
                clients.append(_describe(ws))
                size += len(json.dumps(clients[-1]))
            if total % 500 == 0:
                time.sleep(0)  # in a greenlet: let others run
    return {"clients": clients, "total": total}


def _describe(ws: WebSocket) -> Answer:
    arrival = ws.arrival
    return {
        "id": ws.id,
        "endpoint": arrival and arrival.endpoint,
        "path": arrival and arrival.path,
        "address": arrival and arrival.address,
        "rooms": sorted(ws.rooms),
        "since": arrival and arrival.since,
        "latency": ws.latency,
    }


def _broadcast(
    every: t.Iterable[Rooms[WebSocket]], text: str, to: list[str] | None, endpoint: str | None
) -> Answer:
    sent = 0
    for rooms in every:
        members = rooms.members(to)
        others = {ws.id for ws in members if endpoint and not _is_at(ws, endpoint)}
        if len(members) > len(others):
            rooms.broadcast(text, to, others)
            sent += len(members) - len(others)
    return {"sent": sent}


def _is_at(ws: WebSocket, endpoint: str) -> bool:
    return ws.arrival is not None and ws.arrival.endpoint == endpoint


def _close(every: t.Iterable[Rooms[WebSocket]], id: str, code: int, reason: str) -> Answer:
    for rooms in every:
        ws = rooms.get(id)
        if ws is not None:
            ws.close(code, reason)
            return {"closed": True}
    return {"closed": False}


# The command's side


def ask(app: Flask, request: t.Mapping[str, t.Any]) -> list[tuple[int, Answer]]:
    """Send *request* to each process that serves *app*.

    :return: the processes, each with its answer, which has an ``error`` if it gave none.
    """
    line = json.dumps(request).encode() + b"\n"
    answers = []
    for path in _sockets(app):
        try:
            connection = _connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            continue  # the process is dead
        except OSError:
            answers.append((_process(path), dict(_NO_ANSWER)))
        else:
            answers.append((_process(path), _ask(connection, line)))
    return answers


def _sockets(app: Flask) -> t.Iterator[str]:
    prefix = identify(app) + "-"
    for folder in _folders():
        try:
            _check_folder(folder)
            names = sorted(os.listdir(folder))
        except OSError:
            continue  # no server has put anything there that could be trusted
        for name in names:
            if name.startswith(prefix) and name.endswith(".sock"):
                yield os.path.join(folder, name)


def _connect(path: str) -> socket.socket:
    """:raises OSError: if nobody is there; the socket is removed then."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_TIME)
        connection.connect(path)
    except ConnectionRefusedError:
        connection.close()
        os.unlink(path)
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, line: bytes) -> Answer:
    with connection:
        try:
            connection.sendall(line)
            return t.cast(Answer, json.loads(_read_line(connection, _MAX_ANSWER, ANSWER_TIME)))
        except (OSError, ValueError):
            return dict(_NO_ANSWER)


def _process(path: str) -> int:
    """The process that a socket's name says."""
    try:
        return int(os.path.basename(path).split("-")[1])
    except (IndexError, ValueError):
        return 0

"""Bytes over a plain socket, where the server gives a thread to each connection."""

from __future__ import annotations

import select
import socket
import threading
import typing as t
from contextlib import suppress

from .base import ENDED
from .base import Life
from .base import T
from .base import Transport
from .process import current_process


class ThreadTransport(Transport):
    """Waits in poll(2); one lock keeps those who write, and TLS, apart."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._life: Life = ENDED  # until it is served

    def serve(self, life: Life) -> bool:
        self._life = life
        process = current_process()
        process.join(self)
        try:
            return super().serve(life)
        finally:
            self._life = ENDED
            process.leave(self)

    def go_away(self, code: int) -> None:
        """The process ends: start the closing handshake."""
        self._life.go_away(code)

    def kill(self) -> None:
        """End the connection, which wakes its thread up if that waits for the peer."""
        self._life.abort()
        self.shut_down()

    def begin_reading(self) -> bool:
        # Between a look and a mark another thread might come.
        with self._lock:
            return super().begin_reading()

    def lock(self) -> None:
        self._lock.acquire()

    def unlock(self) -> None:
        self._lock.release()

    def is_here(self) -> bool:
        return True

    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        return function(*args)

    def call_soon(self, function: t.Callable[[T], object], argument: T) -> None:
        function(argument)

    def spawn(self, function: t.Callable[[], object]) -> None:
        _start(threading.Thread(target=function))

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        _start(threading.Timer(seconds, function))

    def is_serving(self) -> bool:
        return threading.get_ident() == self._thread

    def _let_go(self) -> None:
        pass  # who polls wakes up to an error, whether or not it is closed meanwhile

    def _wait_readable(self, timeout: float | None) -> bool:
        return self._wait(select.POLLIN, timeout)

    def _wait_writable(self, timeout: float | None) -> bool:
        return self._wait(select.POLLOUT, timeout)

    def _wait(self, event: int, timeout: float | None) -> bool:
        if self._closed:
            return True  # to the error that the next call gets
        poll = select.poll()
        poll.register(self._socket, event)
        # Rounded up: a wait that ends early would look again, and again.
        return bool(poll.poll(None if timeout is None else int(timeout * 1000) + 1))


def _start(thread: threading.Thread) -> None:
    thread.daemon = True
    with suppress(RuntimeError):  # the process ends, which starts no thread any more
        thread.start()

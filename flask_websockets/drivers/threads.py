"""Bytes over a plain socket, where the server gives a thread to each connection."""

from __future__ import annotations

import select
import socket
import threading
import typing as t

from .base import T
from .base import Transport


class ThreadTransport(Transport):
    """Waits in poll(2); one lock keeps those who write, and TLS, apart."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._lock = threading.Lock()
        self._thread = threading.get_ident()

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
        threading.Thread(target=function, daemon=True).start()

    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        timer = threading.Timer(seconds, function)
        timer.daemon = True
        timer.start()

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

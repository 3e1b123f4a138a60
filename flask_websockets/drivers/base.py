"""A socket that is read by one and written by many, whoever it is that waits.

The socket never blocks: what would block waits by the means of the driver, a
poll or gevent's hub. Writing has one way: :meth:`Transport.queue` inside
:meth:`Transport.run` puts bytes in the outbox, in order and whole, and hands the
kernel what it takes; :meth:`Transport.flush` waits for the rest, or
:meth:`Transport.flush_soon` leaves that to a task of its own.
"""

from __future__ import annotations

import socket as socket_module
import ssl
import time
import typing as t
from abc import ABC
from abc import abstractmethod
from collections import deque

T = t.TypeVar("T")

#: One read takes this many bytes at most.
READ_SIZE: t.Final = 65536
#: Queued frames are joined into pieces of about this size, for fewer sends.
PIECE_SIZE: t.Final = 262144

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport(ABC):
    """The bytes of one connection.

    :param sock: a connected socket; it is the transport's alone from here on,
        but for closing its descriptor, which stays with the server that lent it.
    :param early: what the server read of the peer beyond the request.
    """

    def __init__(self, sock: socket_module.socket, early: bytes = b"") -> None:
        self._socket = sock
        self._early = early
        self._outbox: deque[bytes] = deque()
        self._piece = memoryview(b"")  # what of the outbox the kernel has not taken yet
        self._unsent = 0
        self._flushers = 0
        self._closed = False
        sock.settimeout(0)
        try:
            # Small frames leave at once; without it 64 KiB echoes take 40 ms.
            sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)
        except OSError:
            pass  # a Unix socket has no such option

    @property
    def unsent(self) -> int:
        """How many queued bytes the kernel has not taken yet."""
        return self._unsent

    def read(self, timeout: float | None) -> bytes | None:
        """Wait for bytes of the peer. Only one may read at a time.

        :param timeout: seconds to wait; 0 only looks, None waits for ever.
        :return: some bytes; ``b""`` when the peer is gone; None when time is up.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        while True:
            try:
                return self.run(self._socket.recv, READ_SIZE)
            except ssl.SSLWantWriteError:
                wait = self._wait_writable
            except (BlockingIOError, ssl.SSLWantReadError):
                wait = self._wait_readable
            except OSError:
                return b""  # reset, timed out or shut down: gone all the same
            if timeout is not None and timeout <= 0:
                return None
            if not wait(timeout):
                return None

    def queue(self, data: bytes) -> None:
        """Put *data* behind what waits to be sent. Call it inside :meth:`run`.

        :raises OSError: if the peer is gone.
        """
        self._outbox.append(data)
        self._unsent += len(data)
        if not self._flushers:
            self._push()

    def flush(self, stall: float | None) -> None:
        """Wait until the kernel has taken all that is queued.

        :param stall: seconds that may pass without a byte being taken.
        :raises OSError: if the peer is gone, or takes nothing for so long.
        """
        if self._unsent:
            self.run(self._start_flush)
            self._finish_flush(stall)

    def flush_soon(self, stall: float | None) -> None:
        """The same in a task of its own, which ends the connection on errors.

        Call it inside :meth:`run`.
        """
        if self._unsent and not self._flushers:
            self._start_flush()
            self.spawn(lambda: self._flush_in_background(stall))

    def end_output(self) -> None:
        """Tell the peer that no byte follows (a FIN)."""
        self._shut_down(socket_module.SHUT_WR)

    def shut_down(self) -> None:
        """End both directions at once. Whoever reads wakes up to ``b""``.

        The descriptor stays open: it is the server's to close. Whatever the
        server still writes to it goes nowhere.
        """
        self._shut_down(socket_module.SHUT_RDWR)

    def close(self) -> None:
        """Shut down, and let nobody wait on the descriptor once the server has it back."""
        self.shut_down()
        self._closed = True
        self._let_go()

    # What each driver does in its way

    @abstractmethod
    def run(self, function: t.Callable[..., T], *args: t.Any) -> T:
        """Call *function*, which must not wait, while nobody else's runs."""

    @abstractmethod
    def call(self, function: t.Callable[..., T], *args: t.Any) -> T:
        """Call *function*, which may wait, where this connection's waiting is done."""

    @abstractmethod
    def spawn(self, function: t.Callable[[], object]) -> None:
        """Start *function* in a task of its own."""

    @abstractmethod
    def call_later(self, seconds: float, function: t.Callable[[], object]) -> None:
        """Call *function* after *seconds*, in a task of its own."""

    @abstractmethod
    def is_serving(self) -> bool:
        """Whether the caller is the thread or greenlet that serves the connection."""

    @abstractmethod
    def _let_go(self) -> None:
        """Wait until nobody waits on the descriptor, which is shut down."""

    @abstractmethod
    def _wait_readable(self, timeout: float | None) -> bool: ...

    @abstractmethod
    def _wait_writable(self, timeout: float | None) -> bool: ...

    # The outbox

    def _start_flush(self) -> None:
        self._flushers += 1

    def _finish_flush(self, stall: float | None) -> None:
        deadline, last = _deadline(stall), self._unsent
        try:
            while not self.run(self._push_and_end):
                if self._unsent != last:
                    deadline, last = _deadline(stall), self._unsent
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"the peer took no byte for {stall} seconds")
                self._wait_writable(left)
        except BaseException:
            self.run(self._end_flush)
            raise

    def _push_and_end(self) -> bool:
        # In one run: whoever queues in between would find a flusher that has gone.
        if self._push():
            self._end_flush()
            return True
        return False

    def _end_flush(self) -> None:
        self._flushers -= 1

    def _flush_in_background(self, stall: float | None) -> None:
        try:
            self._finish_flush(stall)
        except OSError:
            self.shut_down()

    def _push(self) -> bool:
        """Hand the kernel what it takes. True once nothing is left."""
        while True:
            if not self._piece:
                if not self._outbox:
                    return True
                self._piece = memoryview(self._next_piece())
            try:
                # TLS wants the very same bytes again after it could not go on.
                sent = self._socket.send(self._piece)
            except _WOULD_BLOCK:
                return False
            except OSError:
                self._outbox.clear()
                self._piece = memoryview(b"")
                self._unsent = 0
                raise
            if not sent:
                return False  # gevent's TLS socket says so where others raise
            self._piece = self._piece[sent:]
            self._unsent -= sent

    def _next_piece(self) -> bytes:
        pieces = [self._outbox.popleft()]
        size = len(pieces[0])
        while self._outbox and size + len(self._outbox[0]) <= PIECE_SIZE:
            pieces.append(self._outbox.popleft())
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _shut_down(self, how: int) -> None:
        try:
            self.run(self._socket.shutdown, how)
        except OSError:
            pass  # the peer was faster


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds

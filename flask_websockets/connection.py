"""One connection as users see it: send, receive, close, rooms.

Stands between the protocol, which knows no socket, and a transport, which knows no
frame. Reading is done by whoever serves the connection, one at a time; writing by
anybody, each frame whole and in order.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
import types
import typing as t
from collections import deque
from enum import Enum

from .config import Config
from .drivers import Transport
from .exceptions import ConnectionClosed
from .protocol import Close
from .protocol import CloseCode
from .protocol import Failure
from .protocol import Ping
from .protocol import Pong
from .protocol import Protocol
from .protocol.close import encode_close
from .rooms import Envelope
from .rooms import Message
from .rooms import Rooms

#: A sender that never receives looks for the peer's Close this often, in seconds.
_LOOK_INTERVAL = 0.05


class State(Enum):
    """CONNECTING -> OPEN -> CLOSING -> CLOSED; a peer can skip the third."""

    CONNECTING = "connecting"  # the handshake is under way
    OPEN = "open"
    CLOSING = "closing"  # our Close is sent, the peer's is awaited
    CLOSED = "closed"  # both are through, or the connection is lost


class WebSocket:
    """One connection. The proxy :data:`.ws` stands for that of the current handler.

    Handlers are given one; nobody needs to make one.
    """

    #: Chosen at random; names the connection in logs, in ``skip`` and in lists.
    id: str
    #: A namespace for what the application wants to keep with the connection.
    state: types.SimpleNamespace
    #: The subprotocols that the client offers, in its order of preference.
    subprotocols: tuple[str, ...]
    #: The subprotocol in use, or None.
    subprotocol: str | None

    def __init__(
        self, config: Config, rooms: Rooms[WebSocket], subprotocols: tuple[str, ...] = ()
    ) -> None:
        self.id = secrets.token_hex(8)
        self.state = types.SimpleNamespace()
        self.subprotocols = subprotocols
        self.subprotocol = None
        self._config = config
        self._rooms = rooms
        self._phase = State.CONNECTING
        self._code: int | None = None
        self._reason = ""
        self._before_close: t.Callable[[], object] | None = None
        # Set by open():
        self._transport: Transport = t.cast(Transport, None)
        self._protocol: Protocol = t.cast(Protocol, None)
        # Only ever tried, never waited for: one reader at a time.
        self._reading = threading.Lock()
        self._inbox: deque[Message] = deque()
        self._ending: Close | Failure | None = None  # the peer's, behind the inbox
        self._gone = False  # the peer's bytes have ended
        self._last_read = 0.0
        self._ping: tuple[bytes, float] | None = None
        self._ping_sent = False
        self._alive_until = 0.0  # when to ping, or to give up if a ping is out
        self._close_until = 0.0
        self._latency: float | None = None

    # Receiving

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; None waits for as long as it takes.
        :return: str for text, bytes for binary; None when the time is up.
        :raises ConnectionClosed: when the connection is closed and nothing is left.
        :raises RuntimeError: if another thread or greenlet is receiving already.
        """
        self._require_open()
        return self._transport.call(self._receive_alone, timeout)

    def receive_nowait(self) -> Message | None:
        """The next message if it is there, else None. Errors as for :meth:`receive`."""
        return self.receive(0)

    def receive_json(
        self, timeout: float | None = None, *, loads: t.Callable[[Message], t.Any] = json.loads
    ) -> t.Any:
        """Wait for the next message and decode it.

        :param timeout: seconds to wait; None waits for as long as it takes.
        :param loads: what decodes it.
        :raises TimeoutError: when the time is up; None would be a JSON null.
        :raises ValueError: if the message is not JSON.
        """
        message = self.receive(timeout)
        if message is None:
            raise TimeoutError(f"no message came within {timeout} seconds")
        return loads(message)

    def __iter__(self) -> t.Iterator[Message]:
        """The messages one after the other, until the connection is closed."""
        while True:
            try:
                message = self.receive()
            except ConnectionClosed:
                return
            assert message is not None
            yield message

    # Sending

    def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message, and wait until the system has taken it.

        May be called from any thread or greenlet.

        :param data: str goes out as text, bytes-like objects as binary.
        :raises ConnectionClosed: if the connection is closed, or lost meanwhile.
        :raises TypeError: if *data* is neither.
        """
        self._require_open()
        message = as_message(data)
        self._look()
        self._transport.call(self._send, message)

    def send_json(self, obj: t.Any, *, dumps: t.Callable[[t.Any], str] = json.dumps) -> None:
        """Send *obj* as JSON text. Errors as for :meth:`send`.

        :param dumps: what encodes it.
        """
        self.send(dumps(obj))

    def ping(self, payload: bytes = b"") -> None:
        """Send a Ping; the Pong that answers it sets :attr:`latency`.

        Pings are sent by themselves every ``WEBSOCKETS_PING_INTERVAL`` seconds.

        :param payload: at most 125 bytes that the Pong repeats.
        :raises ValueError: if it is longer.
        """
        if len(payload) > 125:
            raise ValueError(f"A Ping carries at most 125 bytes, not {len(payload)}.")
        self._require_open()
        self._transport.call(self._send_ping, payload)

    # Opening and closing

    def accept(self, subprotocol: str | None = None) -> None:
        """Choose the subprotocol. For ``before_open``; without it the first of
        ``WEBSOCKETS_SUBPROTOCOLS`` that the client offers is taken.

        :param subprotocol: one of :attr:`subprotocols`, or None for none.
        :raises ValueError: if the client does not offer it.
        :raises RuntimeError: if the connection is open already.
        """
        if self._phase is not State.CONNECTING:
            raise RuntimeError("The connection is open already. Call accept() in before_open.")
        if subprotocol is not None and subprotocol not in self.subprotocols:
            offered = ", ".join(self.subprotocols) or "none"
            raise ValueError(
                f"The client offers no subprotocol {subprotocol!r}. It offers {offered}."
            )
        self.subprotocol = subprotocol

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake; nothing is sent or received after it.

        Does not wait for the peer. Closing what is closed does nothing.

        :param code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
        :param reason: at most 123 bytes of UTF-8.
        :raises ValueError: if the code or the reason may not be sent.
        """
        encode_close(code, reason)
        if self._phase is State.CONNECTING:
            raise RuntimeError("The connection is not open yet. In before_open, use abort().")
        self._transport.call(self._close, code, reason)

    @property
    def connecting(self) -> bool:
        """Whether the handshake is still under way."""
        return self._phase is State.CONNECTING

    @property
    def connected(self) -> bool:
        """Whether messages can be sent and received."""
        self._look()
        return self._phase is State.OPEN

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or about to be, from either side."""
        self._look()
        return self._phase in (State.CLOSING, State.CLOSED)

    @property
    def close_code(self) -> int | None:
        """Why it closed, once it has: the code of the first Close frame of either
        side, 1005 if that named none, 1006 if the connection was lost without one."""
        return self._code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with :attr:`close_code`."""
        return None if self._code is None else self._reason

    @property
    def latency(self) -> float | None:
        """Seconds between the last answered Ping and its Pong; None before the first."""
        return self._latency

    # Rooms

    def join(self, room: str) -> None:
        """Enter *room*, so that broadcasts to it are heard.

        :raises RuntimeError: if the connection is not open yet.
        """
        if self._phase is State.CONNECTING:
            raise RuntimeError("The connection is not open yet. Join rooms from on_open onwards.")
        self._rooms.join(self, room)

    def leave(self, room: str) -> None:
        """Leave *room*. All rooms are left by themselves once the connection is over."""
        self._rooms.leave(self, room)

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that the connection is in."""
        return self._rooms.rooms_of(self)

    def deliver(self, envelope: Envelope) -> None:
        """Queue a broadcast; never waits for a slow peer and never raises."""
        self._transport.call(self._transport.run, self._deliver, envelope)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self._phase.value}>"

    # For who serves the connection

    def open(
        self,
        transport: Transport,
        protocol: Protocol,
        response: bytes,
        before_close: t.Callable[[], object],
    ) -> None:
        """Send the 101 and be open.

        :param response: the head of the HTTP response, or nothing where the server
            has sent one.
        :param before_close: called before our side closes, while still connected.
        :raises OSError: if the client is gone already.
        """
        self._transport = transport
        self._protocol = protocol
        self._before_close = before_close
        transport.run(transport.queue, response)
        transport.flush(self._config.stall_timeout)
        self._phase = State.OPEN
        self._heard()
        self._rooms.add(self)

    def finish(self) -> None:
        """End the closing handshake, whatever state it is in, within its time.

        Afterwards the connection is closed and no broadcast reaches it; the
        transport is still to be ended by :meth:`hang_up`.
        """
        if self._reading.acquire(blocking=False):
            try:
                self._await_close()
            finally:
                self._reading.release()
        else:
            # Somebody still receives in a task of its own: this wakes it up.
            self._transport.shut_down()
            self._gone = True
        self._set_closed(CloseCode.ABNORMAL_CLOSURE)
        self._rooms.remove(self)

    def hang_up(self) -> None:
        """End the TCP connection so that our last frame arrives.

        A descriptor that is closed with bytes unread resets the connection, and a
        reset can overtake the Close frame: so first let the peer finish.
        """
        self._transport.end_output()
        deadline = time.monotonic() + self._config.close_timeout
        while not self._gone:
            data = self._transport.read(max(0.0, deadline - time.monotonic()))
            self._gone = data is None or not data
        self._transport.close()

    def leave_all(self) -> None:
        """Leave all rooms, once ``on_close`` could see them."""
        self._rooms.leave_all(self)

    def abort(self, code: int) -> None:
        """Say *code* if that takes no waiting, and wait for nothing afterwards."""
        try:
            self._transport.run(self._start_closing, code, "")
        except OSError:
            pass
        self._set_closed(code)
        self._gone = True

    # Reading

    def _receive_alone(self, timeout: float | None) -> Message | None:
        with _Reader(self._reading):
            return self._receive(timeout)

    def _receive(self, timeout: float | None) -> Message | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._inbox:
                return self._inbox.popleft()
            self._settle()
            self._require_open()
            now = time.monotonic()
            if deadline is not None and now >= deadline and self._last_read >= deadline:
                return None
            if not self._read(self._time_left(now, deadline)):
                self._keep_alive()

    def _time_left(self, now: float, deadline: float | None) -> float | None:
        times = [] if deadline is None else [deadline]
        if self._config.ping_interval is not None:
            times.append(self._alive_until)
        return max(0.0, min(times) - now) if times else None

    def _read(self, timeout: float | None) -> bool:
        """Read once, answer Pings, put messages in the inbox. False if nothing came."""
        data = self._transport.read(timeout)
        self._last_read = time.monotonic()
        if data is None:
            return False
        if not data:
            self._gone = True
            return True
        self._heard()
        pongs = []
        for event in self._protocol.receive(data):
            if isinstance(event, (str, bytes)):
                if self._phase is State.OPEN:
                    self._inbox.append(event)
            elif isinstance(event, Ping):
                pongs.append(Protocol.encode_pong(event.payload))
            elif isinstance(event, Pong):
                self._take_pong(event.payload)
            else:
                self._ending = event
        if pongs and self._phase is State.OPEN:
            self._write(b"".join(pongs))
        return True

    def _settle(self) -> None:
        """Do what the peer's Close, failure or disappearance asks for.

        Only once all messages before it are taken, so that they are answered.
        """
        if self._phase is State.CLOSED:
            return
        if isinstance(self._ending, Failure):
            self._answer_close(*self._ending, said=self._ending.reason)
        elif self._ending is not None:
            # RFC 6455, section 5.5.1: answer with the code that was received.
            self._answer_close(*self._ending, said="")
        elif self._gone:
            self._set_closed(CloseCode.ABNORMAL_CLOSURE)

    def _answer_close(self, code: int, reason: str, *, said: str) -> None:
        def answer() -> None:
            is_answer = self._phase is State.OPEN
            self._set_closed(code, reason)
            if is_answer:
                self._transport.queue(Protocol.encode_close(code, said))

        try:
            self._transport.run(answer)
            self._transport.flush(self._config.close_timeout)
        except OSError:
            pass  # it did not wait for our answer

    def _await_close(self) -> None:
        while self._phase is State.CLOSING:
            left = self._close_until - time.monotonic()
            if left <= 0:
                return
            self._settle()
            if self._phase is State.CLOSING:
                self._read(left)

    def _look(self) -> None:
        """Notice the peer's Close without waiting, for loops that only send."""
        if (
            self._phase is State.OPEN
            and not self._inbox
            and time.monotonic() - self._last_read > _LOOK_INTERVAL
            and self._transport.is_serving()
            and self._reading.acquire(blocking=False)
        ):
            try:
                while not self._inbox and not self._gone and self._read(0):
                    pass
                if not self._inbox:
                    self._keep_alive()
                    self._settle()
            finally:
                self._reading.release()

    # Keeping alive

    def _heard(self) -> None:
        """The peer lives: the next Ping is an interval away."""
        self._ping_sent = False
        if self._config.ping_interval is not None:
            self._alive_until = time.monotonic() + self._config.ping_interval

    def _keep_alive(self) -> None:
        if self._config.ping_interval is None or time.monotonic() < self._alive_until:
            return
        if self._ping_sent:
            # Nothing came for interval and timeout together.
            self._set_closed(CloseCode.ABNORMAL_CLOSURE, "no answer to a ping")
            self._gone = True
            return
        self._ping_sent = True
        self._alive_until = time.monotonic() + self._config.ping_timeout
        self._send_ping(secrets.token_bytes(4))

    def _send_ping(self, payload: bytes) -> None:
        self._ping = (payload, time.monotonic())
        self._write(Protocol.encode_ping(payload))

    def _take_pong(self, payload: bytes) -> None:
        if self._ping is not None and self._ping[0] == payload:
            self._latency = time.monotonic() - self._ping[1]
            self._ping = None

    # Writing

    def _send(self, message: Message) -> None:
        try:
            self._transport.run(self._queue, message)
            self._transport.flush(self._config.stall_timeout)
        except OSError:
            self._lose()

    def _queue(self, message: Message) -> None:
        self._require_open()
        self._transport.queue(self._protocol.encode_message(message))

    def _write(self, frame: bytes) -> None:
        """Send a control frame; who is gone is noticed by reading."""
        try:
            self._transport.run(self._transport.queue, frame)
            self._transport.flush(self._config.stall_timeout)
        except OSError:
            self._transport.shut_down()

    def _lose(self) -> t.NoReturn:
        """The peer took no more. Perhaps it said why before it left."""
        if self._transport.is_serving() and self._reading.acquire(blocking=False):
            try:
                while not self._gone and self._read(0):
                    pass
                if self._ending is not None:
                    self._set_closed(*self._ending)
            finally:
                self._reading.release()
        self._set_closed(CloseCode.ABNORMAL_CLOSURE)
        self._transport.shut_down()
        self._gone = True
        raise ConnectionClosed(self._code or CloseCode.ABNORMAL_CLOSURE, self._reason)

    def _deliver(self, envelope: Envelope) -> None:
        transport, config = self._transport, self._config
        if self._phase is not State.OPEN:
            return
        if transport.unsent + len(envelope.frame) > config.send_buffer and transport.unsent:
            if config.slow_client == "close":
                # Nothing that is queued can reach it, a Close frame neither.
                self._set_closed(CloseCode.POLICY_VIOLATION, "too slow")
                transport.call_later(0, transport.shut_down)
            return
        try:
            if self._protocol.compresses:
                transport.queue(self._protocol.encode_message(envelope.message))
            else:
                transport.queue(envelope.frame)
            transport.flush_soon(config.stall_timeout)
        except OSError:
            pass  # gone; who reads it will notice

    # Closing

    def _close(self, code: int, reason: str) -> None:
        if self._phase is not State.OPEN:
            return
        hook, self._before_close = self._before_close, None
        if hook is not None:
            hook()
        try:
            self._transport.run(self._start_closing, code, reason)
            self._transport.flush(self._config.close_timeout)
        except OSError:
            self._transport.shut_down()
        if not self._transport.is_serving():
            # Who serves it may be waiting without an end, or be busy.
            self._transport.call_later(self._config.close_timeout, self._transport.shut_down)

    def _start_closing(self, code: int, reason: str) -> None:
        if self._phase is State.OPEN:
            self._phase = State.CLOSING
            self._code, self._reason = code, reason
            self._close_until = time.monotonic() + self._config.close_timeout
            self._inbox.clear()
            self._transport.queue(Protocol.encode_close(code, reason))

    def _set_closed(self, code: int, reason: str = "") -> None:
        self._phase = State.CLOSED
        if self._code is None:
            self._code, self._reason = code, reason

    def _require_open(self) -> None:
        if self._phase is State.CONNECTING:
            raise RuntimeError(
                "The connection is not open yet. Send and receive from on_open onwards."
            )
        if self._phase is not State.OPEN:
            raise ConnectionClosed(self._code or CloseCode.ABNORMAL_CLOSURE, self._reason)


class _Reader:
    """Holds the right to read. Two who wait for the same message is a mistake."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "Another thread or greenlet is receiving on this connection already. "
                "Let one receive, and hand the messages on."
            )

    def __exit__(self, *args: object) -> None:
        self._lock.release()


def as_message(data: object, hint: str = "For JSON, use send_json().") -> Message:
    """*data* as a message.

    :param hint: what to do instead, for the error.
    :raises TypeError: if it is neither str nor bytes-like.
    """
    if isinstance(data, (str, bytes)):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(
        f"A message is str, bytes, bytearray or memoryview, not {type(data).__name__}. {hint}"
    )

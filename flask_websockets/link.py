"""An open connection below its users: receive, send, ping, close.

Stands between the protocol, which knows no socket, and a transport, which knows no
frame. Reading is done by one at a time, whoever serves the connection as a rule;
writing by anybody, each frame whole and in order. Knows no room and nothing of Flask.
"""

from __future__ import annotations

import math
import secrets
import typing as t
from contextlib import suppress
from enum import Enum
from time import monotonic

from .config import Config
from .drivers.base import BUSY
from .drivers.base import IDLE
from .drivers.base import OVER
from .drivers.base import Transport
from .drivers.base import TURNS
from .exceptions import ConnectionClosed
from .protocol import Close
from .protocol import CloseCode
from .protocol import Failure
from .protocol import Ping
from .protocol import Pong
from .protocol.connection import Protocol
from .rate import Bucket
from .rooms import Envelope
from .rooms import Message

#: A sender that never receives looks for the peer's Close this often, in seconds.
_LOOK_INTERVAL = 0.05


#: So many bytes of replies are collected before they are sent.
_REPLIES: t.Final = 262144

#: Of what comes compressed, messages of about so many bytes are inflated before the first of
#: them is handled.
_INFLATED: t.Final = 262144
#: So many reads look for what a peer said before it took no more.
_LAST_READS: t.Final = 16


class State(Enum):
    """OPEN -> CLOSING -> CLOSED; where the peer closes, the second is skipped."""

    OPEN = "open"
    CLOSING = "closing"  # our Close is sent, the peer's is awaited
    CLOSED = "closed"  # both are through, or the connection is lost


_OPEN, _CLOSING, _CLOSED = State


class Link:
    """The frames of one connection.

    :param config: limits and times.
    :param transport: moves the bytes.
    :param protocol: reads and builds the frames.
    :param before_close: called before our side closes, while still connected.
    """

    def __init__(
        self,
        config: Config,
        transport: Transport,
        protocol: Protocol,
        before_close: t.Callable[[], object],
    ) -> None:
        self.state = _OPEN
        #: The code and reason of the first Close frame of either side.
        self.code: int | None = None
        self.reason = ""
        #: Seconds that the last answered Ping took.
        self.latency: float | None = None
        #: How many broadcasts were left out because the peer read too slowly.
        self.dropped = 0
        self._config = config
        self._transport = transport
        self._protocol = protocol
        self._before_close: t.Callable[[], object] | None = before_close
        self._keeps_reading = False  # who serves has it, until there is a message to handle
        self._inbox: list[Message] = []  # the next one is the last
        self._ending: Close | Failure | None = None  # the peer's, behind the inbox
        self._gone = False  # the peer's bytes have ended
        self._holds_replies = False
        self._last_read = 0.0
        self._close_until = 0.0
        self._ping: tuple[bytes, float] | None = None
        self._ping_sent = False
        self._alive_until = math.inf  # when to ping, or to give up if a ping is out
        self._interval = config.ping_interval
        self._turns = 0
        now = monotonic()
        rate = config.rate_limit
        self._bucket = None if rate is None else Bucket(*rate, now)
        transport.stall = config.stall_timeout
        transport.drain = config.drain_timeout
        self._heard(now)

    # For everybody: each may wait, and is called from any thread or greenlet

    def receive(self, timeout: float | None) -> Message | None:
        """Wait for the next message; None when *timeout* seconds are over."""
        self.require_open()
        return self._transport.call(self._receive_alone, timeout)

    def send(self, message: Message) -> None:
        """Send *message* and wait until the system has taken it."""
        self.require_open()
        self.look()
        self._transport.call(self._send, message)

    def sleep(self, seconds: float) -> None:
        """Wait, and raise as soon as nothing can be sent any more."""
        self.require_open()
        self._transport.call(self._sleep, monotonic() + seconds)

    def start_task(self, function: t.Callable[[], object]) -> None:
        """Call *function* in a task that ends with the connection."""
        self.require_open()
        self._transport.start_task(function)

    def reply(self, message: Message) -> None:
        """Send *message* from the task that serves, at the latest at :meth:`flush`."""
        self._holds_replies = True
        transport = self._transport
        try:
            transport.lock()
            try:
                self.require_open()
                transport.hold(self._protocol.encode_message(message))
            finally:
                transport.unlock()
            if transport.unsent > _REPLIES:
                transport.flush(transport.stall)
        except OSError:
            self._lose()

    def flush(self) -> None:
        """Wait until the system has taken all replies, unless it is over."""
        if self._holds_replies and self.state is _OPEN:
            self._holds_replies = False
            try:
                self._transport.flush(self._transport.stall)
            except OSError:
                with suppress(ConnectionClosed):  # nobody is here who could be told
                    self._lose()
        if self._bucket is not None:
            self._bucket.listen(monotonic())

    def ping(self, payload: bytes) -> None:
        """Send a Ping; its Pong sets :attr:`latency`."""
        self.require_open()
        self._transport.call(self._send_ping, payload)

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake, after ``before_close``. Waits for no answer."""
        self._transport.call(self._close, code, reason)

    def deliver(self, envelope: Envelope) -> None:
        """Queue a broadcast; never waits for a slow peer and never raises."""
        # The look is not left to call_soon: its call of a method took 12 % of a broadcast.
        if self._transport.is_here():
            self._deliver(envelope)
        else:
            self._transport.call_soon(self._deliver, envelope)

    def look(self) -> None:
        """Notice the peer's Close without waiting, for loops that only send."""
        if (
            self.state is _OPEN
            and not self._inbox
            and monotonic() - self._last_read > _LOOK_INTERVAL
            and self._transport.is_serving()
            and self._transport.begin_reading()
        ):
            try:
                if self._bucket is not None:
                    self._bucket.listen(monotonic())
                if not self._gone:
                    self._read(0)  # once: a flood would never come to an end
                if not self._inbox:
                    self._keep_alive()
                    self._settle()
            finally:
                self._transport.end_reading()

    def require_open(self) -> None:
        """:raises ConnectionClosed: unless messages can be sent and received."""
        if self.state is not _OPEN:
            raise ConnectionClosed(self.code or CloseCode.ABNORMAL_CLOSURE, self.reason)

    @property
    def is_receiving(self) -> bool:
        """Whether somebody reads."""
        return self._transport.is_reading

    # For who serves the connection

    @property
    def due(self) -> float:
        """When :meth:`take_in` is to be called at the latest, by ``time.monotonic``."""
        return self._alive_until

    def take_in(self, wait: bool) -> None:
        """Read once, and ask for a sign of life if it is time.

        :param wait: whether to wait, for as long as nothing is :attr:`due`.
        :raises RuntimeError: if another thread or greenlet is receiving.
        """
        if not self._keeps_reading:
            self._lock_reading()
            self._keeps_reading = True
        if (
            self.state is _OPEN
            and not self._inbox
            and self._ending is None  # it may be known already, behind the last turn's messages
            and not self._gone
        ):
            timeout = self._time_left(monotonic(), None) if wait else 0.0
            if not self._read(timeout):
                self._keep_alive()

    def take_message(self) -> Message | None:
        """The next message that was taken in; None if there is no other.

        Where :meth:`standing` is BUSY then, the next :meth:`take_in` has more without waiting.

        :raises RuntimeError: if another thread or greenlet is receiving.
        """
        if not self._inbox:
            self._settle()
            if self.state is _OPEN and not self._keeps_reading:
                self._lock_reading()
                self._keeps_reading = True
        elif self.state is _OPEN:
            if self._keeps_reading:
                # Its handler may receive.
                self._keeps_reading = False
                self._transport.end_reading()
            return self._inbox.pop()
        return None

    def standing(self) -> int:
        """What is to be done next: OVER, IDLE or BUSY, of the drivers."""
        if self.state is not _OPEN:
            return OVER
        if self._inbox or self._protocol.has_more or self._ending is not None or self._gone:
            return BUSY
        return IDLE

    def finish(self) -> None:
        """End the closing handshake, whatever state it is in, within its time.

        What is left is :meth:`hang_up`.
        """
        try:
            if self._keeps_reading or self._transport.begin_reading():
                try:
                    self._await_close()
                finally:
                    self._keeps_reading = False
                    self._transport.end_reading()
            else:
                # Somebody still receives in a task of its own: this wakes it up.
                self._transport.shut_down()
                self._gone = True
        finally:
            self._set_closed(CloseCode.ABNORMAL_CLOSURE)
            self._before_close = None  # who calls us is told no more, and can be freed

    def end_tasks(self) -> None:
        """End the tasks that can be ended, and wait until they have."""
        self._transport.end_tasks()

    def hang_up(self) -> None:
        """See to it that our last frame arrives before the transport is closed.

        A descriptor that is closed with bytes unread resets the connection, and a
        reset can overtake the Close frame: so first let the peer finish.
        """
        self._transport.end_output()
        while not self._gone:
            left = self._close_until - monotonic()
            data = self._transport.read(max(0.0, left))
            if not data or left <= 0:
                self._gone = True
            else:
                self._transport.give_way()

    def abort(self, code: int) -> None:
        """Say *code* if that takes no waiting, and wait for nothing afterwards."""
        with suppress(OSError):
            self._start_closing(code, "")
        self._set_closed(code)
        self._gone = True

    # Reading

    def _receive_alone(self, timeout: float | None) -> Message | None:
        self._lock_reading()
        try:
            return self._receive(timeout)
        finally:
            self._transport.end_reading()

    def _lock_reading(self) -> None:
        # Two who wait for the same message is a mistake.
        if not self._transport.begin_reading():
            raise RuntimeError(
                "Another thread or greenlet is receiving on this connection already. "
                "Let one receive, and hand the messages on."
            )

    def _receive(self, timeout: float | None) -> Message | None:
        deadline = None if timeout is None else monotonic() + timeout
        self.require_open()
        self._turns += 1
        if self._turns == TURNS:
            # A loop whose peer is faster would never wait.
            self._turns = 0
            self._transport.give_way()
        self._listen(deadline)
        self.require_open()
        return self._inbox.pop() if self._inbox else None

    def _listen(self, deadline: float | None) -> None:
        """Read until there is a message, or the time is up."""
        while not self._inbox:
            self._settle()
            self.require_open()
            now = monotonic()
            if self._bucket is not None:
                self._bucket.listen(now)
            if deadline is not None and now >= deadline and self._last_read >= deadline:
                return
            if not self._read(self._time_left(now, deadline)):
                self._keep_alive()
            elif not self._inbox:
                self._transport.give_way()  # a flood of what is no message is as fast

    def _sleep(self, deadline: float) -> None:
        # Who serves reads meanwhile, as nobody else does; up to the next message, so that
        # its sender waits as during other work.
        if self._transport.is_serving() and self._transport.begin_reading():
            try:
                self._listen(deadline)
            finally:
                self._transport.end_reading()
        # Made before the look at the state: who closes after that finds it.
        alarm = self._transport.alarm()
        self.require_open()
        alarm.wait(max(0.0, deadline - monotonic()))
        self.require_open()

    def _time_left(self, now: float, deadline: float | None) -> float | None:
        times = [] if deadline is None else [deadline]
        if self._interval is not None:
            times.append(self._alive_until)
        return max(0.0, min(times) - now) if times else None

    def _read(self, timeout: float | None) -> bool:
        """Read once, answer Pings, put messages in the inbox. False if nothing came."""
        data: bytes | None
        if self._protocol.has_more:
            data = b""
            self._last_read = now = monotonic()
            if self._bucket is not None:
                self._bucket.listen(now)
        else:
            data = self._transport.read(timeout)
            self._last_read = now = monotonic()
            if data is None:
                if self._bucket is not None:
                    self._bucket.settle(now)
                return False
            if not data:
                self._gone = True
                return True
            self._heard(now)
        if self._ending is None:  # nothing follows it
            pongs = self._take(data, now)
            if pongs and self.state is _OPEN:
                data = None  # the peer may let us wait, and these bytes need not
                self._write(pongs)
        return True

    def _take(self, data: bytes, now: float) -> bytes:
        """Put the messages in *data* in the inbox.

        :return: the frames that answer Pings.
        """
        events: list[t.Any] = self._protocol.receive(data, _INFLATED)
        if self._bucket is not None and self.state is _OPEN:
            events = self._within_rate(events, now)
        pongs = b""
        if self._protocol.has_controls:
            pongs = self._take_controls(events)
            events = [event for event in events if isinstance(event, (str, bytes))]
        if self.state is _OPEN:
            events.reverse()
            self._inbox = events + self._inbox if self._inbox else events
        return pongs

    def _take_controls(self, events: list[t.Any]) -> bytes:
        """Note Pongs and the end.

        :return: the frames that answer Pings.
        """
        pongs = bytearray()  # of very many Pings, a list would be twenty times as large
        for event in events:
            if isinstance(event, Ping):
                pongs += Protocol.encode_pong(event.payload)
            elif isinstance(event, Pong):
                self._take_pong(event.payload)
            elif isinstance(event, (Close, Failure)):
                self._ending = event
        return bytes(pongs)

    def _within_rate(self, events: list[t.Any], now: float) -> list[t.Any]:
        """The events up to the first that is one too many, which is the end."""
        asking = [
            index for index, event in enumerate(events) if isinstance(event, (str, bytes, Ping))
        ]
        assert self._bucket is not None
        taken = self._bucket.take(len(asking), now)
        if taken == len(asking):
            return events
        self._ending = Failure(CloseCode.POLICY_VIOLATION, "too many messages")
        return events[: asking[taken]]

    def _settle(self) -> None:
        """Do what the peer's Close, failure or disappearance asks for.

        Only once all messages before it are taken, so that they are answered.
        """
        if self.state is _CLOSED:
            return
        if self._ending is None:
            if self._gone:
                self._set_closed(CloseCode.ABNORMAL_CLOSURE)
        elif isinstance(self._ending, Failure):
            self._answer_close(*self._ending, said=self._ending.reason)
        else:
            # RFC 6455, section 5.5.1: answer with the code that was received.
            self._answer_close(*self._ending, said="")

    def _answer_close(self, code: int, reason: str, *, said: str) -> None:
        transport = self._transport
        try:
            transport.lock()
            try:
                is_answer = self.state is _OPEN
                self._set_closed(code, reason)
                if is_answer:
                    self._close_until = monotonic() + self._config.close_timeout
                    transport.queue(Protocol.encode_close(code, said))
            finally:
                transport.unlock()
            transport.flush(None, self._close_until)
        except OSError:
            pass  # it did not wait for our answer

    def _await_close(self) -> None:
        while self.state is _CLOSING:
            left = self._close_until - monotonic()
            if left <= 0:
                return
            self._settle()
            if self.state is _CLOSING and self._read(left):
                self._transport.give_way()

    # Keeping alive

    def _heard(self, now: float) -> None:
        """The peer lives: the next Ping is an interval away."""
        self._ping_sent = False
        if self._interval is not None:
            self._alive_until = now + self._interval

    def _keep_alive(self) -> None:
        if self._interval is None or monotonic() < self._alive_until:
            return
        if self._ping_sent:
            # Nothing came for interval and timeout together.
            self._set_closed(CloseCode.ABNORMAL_CLOSURE, "no answer to a ping")
            self._gone = True
            return
        self._ping_sent = True
        self._alive_until = monotonic() + self._config.ping_timeout
        self._send_ping(secrets.token_bytes(4))

    def _send_ping(self, payload: bytes) -> None:
        self._ping = (payload, monotonic())
        self._write(Protocol.encode_ping(payload))

    def _take_pong(self, payload: bytes) -> None:
        if self._ping is not None and self._ping[0] == payload:
            self.latency = monotonic() - self._ping[1]
            self._ping = None

    # Writing

    def _send(self, message: Message) -> None:
        transport = self._transport
        try:
            if transport.unsent > self._config.send_buffer:
                # Whoever gives up waiting has queued nothing, however often it tries.
                transport.flush(transport.stall)
            transport.lock()
            try:
                self.require_open()
                transport.queue(self._protocol.encode_message(message))
            finally:
                transport.unlock()
            transport.flush(transport.stall)
        except OSError:
            self._lose()

    def _write(self, frame: bytes) -> None:
        """Send a control frame; who is gone is noticed by reading."""
        transport = self._transport
        try:
            transport.lock()
            try:
                transport.queue(frame)
            finally:
                transport.unlock()
            transport.flush(transport.stall)
        except OSError:
            transport.shut_down()

    def _lose(self) -> t.NoReturn:
        """The peer took no more. Perhaps it said why before it left."""
        if self._transport.is_serving() and self._transport.begin_reading():
            try:
                for _ in range(_LAST_READS):
                    if self._gone or self._ending is not None or not self._read(0):
                        break
                    self._inbox = []  # nobody will hear them
                if self._ending is not None:
                    self._set_closed(self._ending.code, self._ending.reason)
            finally:
                self._transport.end_reading()
        self._set_closed(CloseCode.ABNORMAL_CLOSURE)
        self._transport.shut_down()
        self._gone = True
        raise ConnectionClosed(self.code or CloseCode.ABNORMAL_CLOSURE, self.reason)

    def _deliver(self, envelope: Envelope) -> None:
        transport, config = self._transport, self._config
        transport.lock()
        try:
            if self.state is not _OPEN:
                return
            room = config.send_buffer - envelope.size
            if transport.unsent > max(room, 0):
                transport.push()  # what is held has not been offered to the kernel yet
            if transport.unsent > max(room, 0):
                if config.slow_client == "close":
                    # Nothing that is queued can reach it, a Close frame neither.
                    self._set_closed(CloseCode.POLICY_VIOLATION, "too slow")
                    transport.call_later(0, transport.shut_down)
                else:
                    self.dropped += 1
                return
            transport.post(self._protocol.encode_shared(envelope.message, envelope.frames))
        except OSError:
            pass  # gone; who reads it will notice
        finally:
            transport.unlock()

    # Closing

    def _close(self, code: int, reason: str) -> None:
        if self.state is not _OPEN:
            return
        hook, self._before_close = self._before_close, None
        if hook is not None:
            hook()
        try:
            self._start_closing(code, reason)
            self._transport.flush(None, self._close_until)
        except OSError:
            self._transport.shut_down()
        if not self._transport.is_serving():
            # Who serves it may be waiting without an end, or be busy.
            self._transport.call_later(self._config.close_timeout, self._transport.shut_down)

    def _start_closing(self, code: int, reason: str) -> None:
        self._transport.lock()
        try:
            if self.state is _OPEN:
                self.state = _CLOSING
                self.code, self.reason = code, reason
                self._close_until = monotonic() + self._config.close_timeout
                self._transport.ring()
                self._transport.queue(Protocol.encode_close(code, reason))
        finally:
            self._transport.unlock()

    def _set_closed(self, code: int, reason: str = "") -> None:
        self.state = _CLOSED
        if self.code is None:
            self.code, self.reason = code, reason
        self._transport.ring()  # those who wake are told the code

"""One connection as users see it: send, receive, close, rooms."""

from __future__ import annotations

import json
import secrets
import types
import typing as t

from .config import Config
from .drivers import Transport
from .exceptions import ConnectionClosed
from .link import Link
from .link import State
from .protocol import CloseCode
from .protocol import Protocol
from .protocol.close import encode_close
from .protocol.frames import check_ping
from .rooms import Envelope
from .rooms import Message
from .rooms import Rooms

# An Enum finds its members by a search.
_OPEN = State.OPEN


class Arrival(t.NamedTuple):
    """Where and when a connection came in, for lists of them.

    :param endpoint: the endpoint of its rule.
    :param path: the path of its URL, without what follows a question mark.
    :param address: the client's, as the request has it; None where the server gives none.
    :param since: when, by ``time.time``.
    """

    endpoint: str
    path: str
    address: str | None
    since: float


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
    # Set in the handshake.
    arrival: Arrival | None

    def __init__(
        self, config: Config, rooms: Rooms[WebSocket], subprotocols: tuple[str, ...] = ()
    ) -> None:
        self.id = secrets.token_hex(8)
        self.state = types.SimpleNamespace()
        self.subprotocols = subprotocols
        self.subprotocol = None
        self.arrival = None
        self._config = config
        self._rooms = rooms
        self._link: Link | None = None  # while the handshake is under way

    # Receiving

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; None waits for as long as it takes.
        :return: str for text, bytes for binary; None when the time is up.
        :raises ConnectionClosed: when the connection is closed and nothing is left.
        :raises RuntimeError: if another thread or greenlet is receiving already.
        """
        return self._opened().receive(timeout)

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

    def sleep(self, seconds: float) -> None:
        """Wait for *seconds*, in the server's own way, and no longer than the connection is open.

        For what a task, a generator or a loop does now and then. In a handler, a message
        that comes meanwhile is kept for whoever receives next, and what comes behind it is
        not looked at, the client's Close neither.

        :raises ConnectionClosed: as soon as the connection is closed, from either side.
        """
        self._opened().sleep(seconds)

    # Sending

    def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message, and wait until the system has taken it.

        May be called from any thread or greenlet.

        :param data: str goes out as text, bytes-like objects as binary.
        :raises ConnectionClosed: if the connection is closed, or lost meanwhile.
        :raises TypeError: if *data* is neither.
        """
        self._opened().send(as_message(data))

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
        check_ping(payload)
        self._opened().ping(payload)

    # Opening and closing

    def accept(self, subprotocol: str | None = None) -> None:
        """Choose the subprotocol. For ``before_open``; without it the first of
        ``WEBSOCKETS_SUBPROTOCOLS`` that the client offers is taken.

        :param subprotocol: one of :attr:`subprotocols`, or None for none.
        :raises ValueError: if the client does not offer it.
        :raises RuntimeError: if the connection is open already.
        """
        if self._link is not None:
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
        self._opened("In before_open, use abort().").close(code, reason)

    @property
    def connecting(self) -> bool:
        """Whether the handshake is still under way."""
        return self._link is None

    @property
    def connected(self) -> bool:
        """Whether messages can be sent and received."""
        return self._look() is _OPEN

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or about to be, from either side."""
        state = self._look()
        return state is not None and state is not _OPEN

    @property
    def close_code(self) -> int | None:
        """Why it closed, once it has: the code of the first Close frame of either
        side, 1005 if that named none, 1006 if the connection was lost without one."""
        return None if self._link is None else self._link.code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with :attr:`close_code`."""
        return None if self._link is None or self._link.code is None else self._link.reason

    @property
    def latency(self) -> float | None:
        """Seconds between the last answered Ping and its Pong; None before the first."""
        return None if self._link is None else self._link.latency

    @property
    def dropped(self) -> int:
        """How many broadcasts were left out because the peer read too slowly, where
        ``WEBSOCKETS_SLOW_CLIENT`` is ``"drop"``."""
        return 0 if self._link is None else self._link.dropped

    # Rooms

    def join(self, room: str) -> None:
        """Enter *room*, so that broadcasts to it are heard.

        :raises RuntimeError: if the connection is not open yet.
        """
        self._opened("Join rooms from on_open onwards.")
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
        self._opened().deliver(envelope)

    def __repr__(self) -> str:
        state = "connecting" if self._link is None else self._link.state.value
        return f"<{type(self).__name__} {self.id} {state}>"

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
        transport.queue(response)
        transport.flush(self._config.stall_timeout)
        self._link = Link(self._config, transport, protocol, before_close)
        self._rooms.add(self)

    @property
    def due(self) -> float:
        """When :meth:`take_in` is to be called at the latest, by ``time.monotonic``."""
        return self._opened().due

    def take_in(self, wait: bool) -> None:
        """Read once, and ask for a sign of life if it is time.

        :param wait: whether to wait, for as long as nothing is :attr:`due`.
        :raises RuntimeError: if another thread or greenlet is receiving.
        """
        self._opened().take_in(wait)

    def take_message(self) -> Message | None:
        """The next message that was taken in; None if there is no other."""
        return self._opened().take_message()

    def reply(self, message: Message) -> None:
        """Send what a handler has returned, at the latest at :meth:`flush`."""
        self._opened().reply(message)

    def flush(self) -> None:
        """Wait until the system has taken all replies."""
        self._opened().flush()

    def standing(self) -> int:
        """What is to be done next: OVER, IDLE or BUSY, of the drivers."""
        return self._opened().standing()

    def finish(self) -> None:
        """End the closing handshake within its time. No broadcast comes afterwards."""
        try:
            self._opened().finish()
        finally:
            self._rooms.remove(self)  # also where the server ends the task that waits

    def leave_all(self) -> None:
        """Leave all rooms, once ``on_close`` could see them."""
        self._rooms.leave_all(self)

    def start_task(self, function: t.Callable[[], object]) -> None:
        """Call *function* in a task that ends with the connection.

        :raises ConnectionClosed: if it is closed.
        """
        self._opened().start_task(function)

    def end_tasks(self) -> None:
        """End the tasks that can be ended, and wait until they have."""
        self._opened().end_tasks()

    def hang_up(self) -> None:
        """See to it that our last frame arrives before the transport is closed."""
        self._opened().hang_up()

    def abort(self, code: int) -> None:
        """Say *code* if that takes no waiting, and wait for nothing afterwards."""
        self._opened().abort(code)

    def _opened(self, hint: str = "Send and receive from on_open onwards.") -> Link:
        if self._link is None:
            raise RuntimeError(f"The connection is not open yet. {hint}")
        return self._link

    def _look(self) -> State | None:
        if self._link is None:
            return None
        self._link.look()
        return self._link.state


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

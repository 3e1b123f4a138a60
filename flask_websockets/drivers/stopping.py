"""A server's connections when it stops: told so, waited for, and ended. Knows no server."""

from __future__ import annotations

import time
import typing as t
from contextlib import suppress

#: The close codes of a server that stops, and of one that will be back at once.
GOING_AWAY: t.Final = 1001
SERVICE_RESTART: t.Final = 1012

#: How often it is looked whether all are gone, in seconds.
_LOOK_INTERVAL = 0.01


class Member(t.Protocol):
    """A connection, as far as its server is concerned."""

    #: Seconds that its server may take to stop.
    drain: float

    def go_away(self, code: int) -> None:
        """Start the closing handshake; may wait."""

    def kill(self) -> None:
        """End it without waiting for the peer."""


class Company:
    """The connections of one server.

    :param start: starts a task.
    :param sleep: lets the other tasks run for some seconds.
    """

    def __init__(
        self,
        start: t.Callable[[t.Callable[[int], None], int], object],
        sleep: t.Callable[[float], None],
    ) -> None:
        self._start = start
        self._sleep = sleep
        self._members: set[Member] = set()
        self._until = 0.0
        #: The close code that is being said to all; None while the server runs.
        self.code: int | None = None

    def join(self, member: Member) -> None:
        """Let *member* be told when the server stops."""
        self._members.add(member)
        if self.code is not None:
            self._start(member.go_away, self.code)  # it came between two looks

    def leave(self, member: Member) -> None:
        """It is over."""
        self._members.discard(member)

    def __len__(self) -> int:
        return len(self._members)

    def dismiss(self, code: int, is_hurried: t.Callable[[], bool]) -> None:
        """Say *code* to all and wait until they are gone; end those that stay too long.

        Interrupted by Ctrl-C, or hurried, it ends them at once. Who calls it meanwhile
        waits for the same.

        :param is_hurried: whether the server has been told again to stop.
        """
        is_first = self.code is None
        with suppress(KeyboardInterrupt):
            if is_first:
                self._tell(code)
            self._wait(self._until, is_hurried)
        for member in list(self._members):
            member.kill()  # its peer, or its handler, keeps it waiting
        before = 0
        while len(self._members) != before:  # some have ended; on_close of thousands takes a while
            before = len(self._members)
            with suppress(KeyboardInterrupt):
                self._wait(time.monotonic() + 1, lambda: False)
        if is_first:
            self.code = None

    def _tell(self, code: int) -> None:
        self.code = code
        members = list(self._members)
        self._until = time.monotonic() + max((one.drain for one in members), default=0.0)
        for member in members:
            self._start(member.go_away, code)

    def _wait(self, deadline: float, is_hurried: t.Callable[[], bool]) -> None:
        while self._members and not is_hurried() and time.monotonic() < deadline:
            self._sleep(_LOOK_INTERVAL)

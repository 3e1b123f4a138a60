"""Who is connected and in which room, and how one message reaches many.

Knows connections only as members that take an envelope, never how they send it.
"""

from __future__ import annotations

import threading
import typing as t
from collections.abc import Collection
from dataclasses import dataclass

from .protocol import Protocol

Message = t.Union[str, bytes]


@dataclass(frozen=True)
class Envelope:
    """A broadcast as data, before it is delivered.

    :param message: text or binary.
    :param frames: its frames, each encoded once: see :meth:`.Protocol.encode_shared`.
    :param to: the rooms that it goes to; None for everybody.
    :param skip: the ids of members that it does not go to.
    """

    message: Message
    frames: dict[t.Hashable, bytes]
    to: frozenset[str] | None
    skip: frozenset[str]

    @property
    def size(self) -> int:
        """The bytes of its frame, uncompressed."""
        return len(self.frames[None])


class Member(t.Protocol):
    """What a room needs of a connection."""

    id: str

    def deliver(self, envelope: Envelope) -> None:
        """Queue the envelope's message; never wait, never raise."""


M = t.TypeVar("M", bound=Member)


class Rooms(t.Generic[M]):
    """The members of one endpoint, by id and by room."""

    def __init__(self) -> None:
        # Held for a few dict operations, never while anything waits.
        self._lock = threading.Lock()
        self._members: dict[str, M] = {}
        self._rooms: dict[str, dict[str, M]] = {}
        self._joined: dict[str, set[str]] = {}

    def add(self, member: M) -> None:
        """Let *member* hear broadcasts."""
        with self._lock:
            self._members[member.id] = member

    def remove(self, member: M) -> None:
        """Let it hear none any more; it stays in its rooms until :meth:`leave_all`."""
        with self._lock:
            self._members.pop(member.id, None)

    def join(self, member: M, room: str) -> None:
        """Put *member* in *room*."""
        with self._lock:
            if member.id in self._members:
                self._rooms.setdefault(room, {})[member.id] = member
                self._joined.setdefault(member.id, set()).add(room)

    def leave(self, member: M, room: str) -> None:
        """Take *member* out of *room*, if it is there. An empty room is gone."""
        with self._lock:
            self._leave(member, room)
            if not self._joined.get(member.id, True):
                del self._joined[member.id]

    def leave_all(self, member: M) -> None:
        """Take *member* out of all its rooms."""
        with self._lock:
            for room in self._joined.pop(member.id, ()):
                self._leave(member, room)

    def rooms_of(self, member: M) -> frozenset[str]:
        """The rooms that *member* is in."""
        with self._lock:
            return frozenset(self._joined.get(member.id, ()))

    def members(self, to: t.Collection[str] | None = None) -> list[M]:
        """Everybody, or everybody in one of the rooms *to*, each once."""
        with self._lock:
            if to is None:
                return list(self._members.values())
            found: dict[str, M] = {}
            for room in to:
                found.update(self._rooms.get(room, {}))
            return [member for member in found.values() if member.id in self._members]

    def get(self, id: str) -> M | None:
        """The member with this id, if it is connected."""
        return self._members.get(id)

    def __len__(self) -> int:
        return len(self._members)

    def broadcast(
        self, message: Message, to: t.Collection[str] | None, skip: t.Collection[str]
    ) -> None:
        """Encode *message* once and deliver it to all who are meant."""
        frames: dict[t.Hashable, bytes] = {None: Protocol.encode_plain(message)}
        rooms = None if to is None else frozenset(to)
        self.deliver(Envelope(message, frames, rooms, frozenset(skip)))

    def deliver(self, envelope: Envelope) -> None:
        """Hand *envelope* to each member that it is for."""
        for member in self.members(envelope.to):
            if member.id not in envelope.skip:
                member.deliver(envelope)

    def _leave(self, member: M, room: str) -> None:
        inside = self._rooms.get(room)
        if inside is not None and inside.pop(member.id, None) is not None:
            if not inside:
                del self._rooms[room]
        joined = self._joined.get(member.id)
        if joined is not None:
            joined.discard(room)


class Clients(Collection[M]):
    """The open connections: looping over it loops over those of that moment."""

    def __init__(self, rooms: Rooms[M]) -> None:
        self._rooms = rooms

    def __iter__(self) -> t.Iterator[M]:
        return iter(self._rooms.members())

    def __len__(self) -> int:
        return len(self._rooms)

    def __contains__(self, ws: object) -> bool:
        # The proxy is not the connection, but it has its id.
        id = getattr(ws, "id", None)
        return isinstance(id, str) and self._rooms.get(id) is not None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}>"

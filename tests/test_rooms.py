from __future__ import annotations

import dataclasses

import pytest

from flask_websockets.rooms import Envelope
from flask_websockets.rooms import Rooms


class FakeMember:
    """What a room needs of a connection, and a list of what it was given."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.envelopes: list[Envelope] = []

    def __repr__(self) -> str:
        return self.id

    def deliver(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def heard(self) -> list[str | bytes]:
        return [envelope.message for envelope in self.envelopes]


@pytest.fixture
def rooms() -> Rooms[FakeMember]:
    return Rooms()


@pytest.fixture
def ann(rooms: Rooms[FakeMember]) -> FakeMember:
    member = FakeMember("ann")
    rooms.add(member)
    return member


@pytest.fixture
def bob(rooms: Rooms[FakeMember]) -> FakeMember:
    member = FakeMember("bob")
    rooms.add(member)
    return member


@pytest.fixture
def cyd(rooms: Rooms[FakeMember]) -> FakeMember:
    member = FakeMember("cyd")
    rooms.add(member)
    return member


# Who is there


def test_at_first_nobody_is_there(rooms: Rooms[FakeMember]) -> None:
    assert len(rooms) == 0
    assert rooms.members() == []
    assert rooms.members(["room"]) == []
    assert rooms.get("ann") is None


def test_members_come_and_go(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember, cyd: FakeMember
) -> None:
    assert rooms.members() == [ann, bob, cyd]
    assert len(rooms) == 3
    assert rooms.get("bob") is bob
    rooms.remove(bob)
    assert rooms.members() == [ann, cyd]
    assert len(rooms) == 2
    assert rooms.get("bob") is None


def test_to_add_or_remove_twice_is_as_once(rooms: Rooms[FakeMember], ann: FakeMember) -> None:
    rooms.add(ann)
    assert rooms.members() == [ann]
    rooms.remove(ann)
    rooms.remove(ann)
    assert rooms.members() == []


def test_the_list_of_members_is_a_copy(rooms: Rooms[FakeMember], ann: FakeMember) -> None:
    rooms.join(ann, "a")
    rooms.members().clear()
    rooms.members(["a"]).clear()
    assert rooms.members() == rooms.members(["a"]) == [ann]


# Who is in which room


def test_joining_and_leaving(rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember) -> None:
    rooms.join(ann, "a")
    rooms.join(ann, "b")
    rooms.join(bob, "b")
    assert rooms.rooms_of(ann) == {"a", "b"}
    assert rooms.rooms_of(bob) == {"b"}
    assert rooms.members(["a"]) == [ann]
    assert rooms.members(["b"]) == [ann, bob]
    rooms.leave(ann, "b")
    assert rooms.rooms_of(ann) == {"a"}
    assert rooms.members(["b"]) == [bob]


def test_to_join_or_leave_twice_is_as_once(rooms: Rooms[FakeMember], ann: FakeMember) -> None:
    rooms.join(ann, "a")
    rooms.join(ann, "a")
    assert rooms.members(["a"]) == [ann]
    rooms.leave(ann, "a")
    assert rooms.members(["a"]) == []
    rooms.leave(ann, "a")
    assert rooms.rooms_of(ann) == frozenset()


def test_to_leave_where_one_is_not_changes_nothing(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.leave(bob, "a")
    rooms.leave(ann, "nowhere")
    assert rooms.members(["a"]) == [ann]
    assert rooms.rooms_of(ann) == {"a"}


def test_leaving_all(rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember) -> None:
    for room in ("a", "b", "c"):
        rooms.join(ann, room)
        rooms.join(bob, room)
    rooms.leave_all(ann)
    rooms.leave_all(ann)
    assert rooms.rooms_of(ann) == frozenset()
    assert rooms.rooms_of(bob) == {"a", "b", "c"}
    assert rooms.members(["a", "b", "c"]) == [bob]
    rooms.join(ann, "a")
    assert rooms.members(["a"]) == [bob, ann]


def test_in_several_rooms_one_is_found_once(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember, cyd: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.join(ann, "b")
    rooms.join(bob, "b")
    assert rooms.members(["a", "b", "nowhere"]) == [ann, bob]
    assert rooms.members([]) == []


def test_who_is_not_there_cannot_join(rooms: Rooms[FakeMember], ann: FakeMember) -> None:
    stranger = FakeMember("stranger")
    rooms.join(stranger, "a")
    rooms.remove(ann)
    rooms.join(ann, "a")
    assert rooms.members(["a"]) == []
    assert rooms.rooms_of(stranger) == rooms.rooms_of(ann) == frozenset()


def test_who_is_removed_keeps_its_rooms_until_it_leaves_them(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.join(bob, "a")
    rooms.remove(ann)
    assert rooms.rooms_of(ann) == {"a"}
    assert rooms.members(["a"]) == [bob]
    rooms.leave_all(ann)
    assert rooms.rooms_of(ann) == frozenset()


def test_nothing_is_kept_of_those_who_left(rooms: Rooms[FakeMember]) -> None:
    for number in range(10):
        member = FakeMember(str(number))
        rooms.add(member)
        rooms.join(member, "all")
        rooms.join(member, f"of {number}")
        rooms.leave(member, f"of {number}")
        if number % 2:
            rooms.leave(member, "all")
        rooms.remove(member)
        rooms.leave_all(member)
    kept = [value for value in vars(rooms).values() if isinstance(value, dict)]
    assert kept == [{}, {}, {}]


# Broadcasts


def test_a_broadcast_reaches_everybody(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    rooms.broadcast("hello", None, ())
    rooms.broadcast(b"\x00\x01", None, ())
    assert ann.heard == bob.heard == ["hello", b"\x00\x01"]


def test_a_broadcast_to_rooms_reaches_those_inside_once(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember, cyd: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.join(ann, "b")
    rooms.join(bob, "b")
    rooms.broadcast("a", ["a"], ())
    rooms.broadcast("a and b", ["a", "b", "b"], ())
    rooms.broadcast("nowhere", ["nowhere"], ())
    rooms.broadcast("none", [], ())
    assert ann.heard == ["a", "a and b"]
    assert bob.heard == ["a and b"]
    assert cyd.heard == []


def test_a_broadcast_skips_whom_it_shall(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember, cyd: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.join(bob, "a")
    rooms.broadcast("all", None, ["ann", "nobody"])
    rooms.broadcast("room", ["a"], ["bob", "cyd"])
    assert ann.heard == ["room"]
    assert bob.heard == ["all"]
    assert cyd.heard == ["all"]


def test_who_is_removed_hears_nothing(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    rooms.join(ann, "a")
    rooms.join(bob, "a")
    rooms.remove(ann)
    rooms.broadcast("all", None, ())
    rooms.broadcast("room", ["a"], ())
    assert ann.heard == []
    assert bob.heard == ["all", "room"]


def test_a_broadcast_is_encoded_once(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    rooms.broadcast("hé", ["a"], ["x"])
    assert ann.envelopes == []
    rooms.broadcast("hé", None, ["x"])
    assert ann.envelopes == [Envelope("hé", {None: b"\x81\x03h\xc3\xa9"}, None, frozenset({"x"}))]
    assert ann.envelopes[0] is bob.envelopes[0]
    rooms.join(ann, "a")
    rooms.broadcast(b"\xff", ["a", "b"], ())
    assert ann.envelopes[1] == Envelope(
        b"\xff", {None: b"\x82\x01\xff"}, frozenset({"a", "b"}), frozenset()
    )


def test_an_envelope_can_be_delivered_by_itself(
    rooms: Rooms[FakeMember], ann: FakeMember, bob: FakeMember
) -> None:
    envelope = Envelope("hi", {None: b"\x81\x02hi"}, None, frozenset({"bob"}))
    rooms.deliver(envelope)
    assert ann.envelopes == [envelope]
    assert bob.envelopes == []


def test_an_envelope_does_not_change() -> None:
    envelope = Envelope("hi", {None: b"\x81\x02hi"}, None, frozenset())
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelope.message = "bye"  # type: ignore[misc]


def test_text_that_cannot_be_encoded_reaches_nobody(
    rooms: Rooms[FakeMember], ann: FakeMember
) -> None:
    with pytest.raises(UnicodeEncodeError):
        rooms.broadcast("\ud800", None, ())
    assert ann.envelopes == []


def test_members_may_come_and_go_while_a_broadcast_is_delivered(
    rooms: Rooms[FakeMember], ann: FakeMember
) -> None:
    class Restless(FakeMember):
        def deliver(self, envelope: Envelope) -> None:
            super().deliver(envelope)
            rooms.remove(self)
            rooms.leave_all(self)
            rooms.add(FakeMember("new"))
            rooms.broadcast("left", None, ())

    restless = Restless("restless")
    rooms.add(restless)
    rooms.join(restless, "a")
    last = FakeMember("last")
    rooms.add(last)
    rooms.broadcast("hello", None, ())
    assert ann.heard == ["hello", "left"]
    assert restless.heard == ["hello"]
    assert last.heard == ["left", "hello"]
    assert rooms.rooms_of(restless) == frozenset()

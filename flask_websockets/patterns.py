"""A pattern as the standard library has parsed it, and whether it can explode.

Knows the trees of :mod:`re`. What is found in one and not known here is left alone. No
handler and no message.
"""

from __future__ import annotations

import re
import string
import sys
import typing as t
import warnings
from collections import deque

if sys.version_info >= (3, 11):
    from re import _compiler
    from re import _constants
    from re import _parser
else:
    import sre_compile as _compiler
    import sre_constants as _constants
    import sre_parse as _parser

#: The names of nodes and anchors.
codes: t.Any = _constants

#: What is done, and what it is done with.
Node = tuple[t.Any, t.Any]
#: A piece of a pattern: nodes, one after the other.
Nodes = t.Iterable[Node]
#: How often each of some places is come to, or left.
Ways = dict[int, int]

#: The nodes that match exactly one character.
ONE_CHARACTER: t.Final = (codes.ANY, codes.IN, codes.LITERAL, codes.NOT_LITERAL)
REPEATS: t.Final = (codes.MAX_REPEAT, codes.MIN_REPEAT)
ENDLESS: t.Final = codes.MAXREPEAT

#: A repetition so often counts as one without end: the tenth power of a length is too much.
_OFTEN: t.Final = 10
#: So many places and steps are looked at; where that is not enough, nothing is said.
_MOST_PLACES: t.Final = 300
_MOST_STEPS: t.Final = 100_000
_FIRST_LETTERS: t.Final = string.ascii_letters + string.digits + string.punctuation


def find_pump(pattern: re.Pattern[t.Any]) -> str | bytes | None:
    """What makes *pattern* explode: a string which :mod:`re` can read in two ways inside of
    one repetition.

    Each time more that it stands in a message which does not match may double the time
    that it takes. Only such patterns are found: not those whose time grows with a power of
    the length, and none with an anchor, a look-around or a back-reference in
    the repetition.

    :return: the string, or None.
    """
    tree = parse(pattern)
    is_text = isinstance(pattern.pattern, str)
    alphabet = _alphabet(tree, sys.maxunicode if is_text else 255)
    for body, flags in _loops(tree, tree.state.flags):
        try:
            pump = _Loop(body, flags, alphabet).find_pump()
        except _Unknown:
            continue
        if pump is not None:
            return pump if is_text else pump.encode("latin-1")
    return None


def parse(pattern: re.Pattern[t.Any]) -> t.Any:
    """The tree of *pattern*, with its flags in ``state.flags``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # re.compile gave them
        return _parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)


def flags_within(flags: int, added: int, removed: int) -> int:
    """The flags in a group such as ``(?i-s:...)``."""
    if added & _parser.TYPE_FLAGS:
        flags &= ~_parser.TYPE_FLAGS
    return (flags | added) & ~removed


def runs(node: Node, flags: int, text: str) -> list[tuple[int, int]]:
    """Where *text* has the characters that *node* matches, as ``re`` itself says."""
    state = _parser.State()
    state.flags = flags
    one = _parser.SubPattern(state, [node])
    many = _parser.SubPattern(state, [(codes.MAX_REPEAT, (1, ENDLESS, one))])
    return [match.span() for match in _compiler.compile(many).finditer(text)]


def _alphabet(tree: t.Any, highest: int) -> str:
    """Some characters of each set that the classes of *tree* can cut out of all characters.

    A range that meets another has an end in it, or an end of the other is in it.
    """
    letters = dict.fromkeys(_FIRST_LETTERS + "".join(map(chr, range(256))))
    for point in _points(tree):
        for near in (point - 1, point, point + 1):
            letters[chr(min(max(near, 0), highest))] = None
    return "".join(letters)


def _points(nodes: t.Any) -> t.Iterator[int]:
    """All code points that are named somewhere in *nodes*."""
    for node in nodes:
        if isinstance(node, tuple) and len(node) == 2:
            if node[0] in (codes.LITERAL, codes.NOT_LITERAL):
                yield node[1]
                continue
            if node[0] is codes.RANGE:
                yield from node[1]
                continue
        if isinstance(node, (tuple, list, _parser.SubPattern)):
            yield from _points(node)


def _loops(nodes: Nodes, flags: int) -> t.Iterator[tuple[t.Any, int]]:
    """What is repeated in *nodes*, outer before inner."""
    for op, value in nodes:
        if op in REPEATS:
            _, most, body = value
            if most >= _OFTEN and not (len(body) == 1 and body[0][0] in ONE_CHARACTER):
                yield body, flags
            yield from _loops(body, flags)
        elif op is codes.SUBPATTERN:
            _, added, removed, body = value
            yield from _loops(body, flags_within(flags, added, removed))
        elif op is codes.BRANCH:
            for body in value[1]:
                yield from _loops(body, flags)
        elif op in (codes.ASSERT, codes.ASSERT_NOT):
            yield from _loops(value[1], flags)


class _Unknown(Exception):
    """A node that cannot be judged, or too many of them."""


class _Part(t.NamedTuple):
    """A piece of a pattern: in how many ways (2 stands for more) it may be passed without a
    character, entered at a place and left from one."""

    empty: int
    first: Ways
    last: Ways


class _Loop:
    """What is repeated without end, as an automaton without empty steps (Glushkov's).

    Its places are the characters and classes of the pattern. From each place each other
    can be reached, as what is repeated begins again.
    """

    def __init__(self, body: Nodes, flags: int, alphabet: str) -> None:
        self._alphabet = alphabet
        #: Of each place: the letters of the alphabet that it takes, a bit for each.
        self._letters: list[int] = []
        #: Of each place: in how many ways others come next.
        self._next: list[Ways] = []
        self._known: dict[t.Any, int] = {}
        self._repeat(self._sequence(body, flags))

    def find_pump(self) -> str | None:
        """A word that leads from the first place to itself in two ways, from its beginning."""
        # Two fingers go the same word. It is found when they are back together after they
        # were apart, or have gone one step in two ways.
        start = (0, 0, False)
        came: dict[tuple[int, int, bool], tuple[t.Any, str]] = {}
        waiting = deque([start])
        steps = 0
        while waiting and self._letters:
            here = waiting.popleft()
            one, other, parted = here
            for a, ways in self._next[one].items():
                for b in self._next[other]:
                    steps += 1
                    common = self._letters[a] & self._letters[b]
                    there = (a, b, parted or a != b or ways > 1)
                    if not common or there in came:
                        continue
                    came[there] = (here, self._alphabet[(common & -common).bit_length() - 1])
                    if there == (0, 0, True):
                        return _word(came, start, there)
                    waiting.append(there)
            if steps > _MOST_STEPS:
                raise _Unknown
        return None

    def _sequence(self, nodes: Nodes, flags: int) -> _Part:
        part = _Part(1, {}, {})
        for node in nodes:
            part = self._join(part, self._node(node, flags))
        return part

    def _node(self, node: Node, flags: int) -> _Part:
        op, value = node
        if op in ONE_CHARACTER:
            return self._place(node, flags)
        if op is codes.SUBPATTERN:
            _, added, removed, body = value
            return self._sequence(body, flags_within(flags, added, removed))
        if op is codes.BRANCH:
            parts = [self._sequence(body, flags) for body in value[1]]
            return _Part(
                min(2, sum(part.empty for part in parts)),
                {place: ways for part in parts for place, ways in part.first.items()},
                {place: ways for part in parts for place, ways in part.last.items()},
            )
        if op in REPEATS:
            least, most, body = value
            return self._repetition(least, most, body, flags)
        raise _Unknown

    def _place(self, node: Node, flags: int) -> _Part:
        place = len(self._letters)
        if place == _MOST_PLACES:
            raise _Unknown
        key = (repr(node), flags)
        if key not in self._known:
            spans = runs(node, flags, self._alphabet)
            self._known[key] = sum((1 << end) - (1 << start) for start, end in spans)
        self._letters.append(self._known[key])
        self._next.append({})
        return _Part(0, {place: 1}, {place: 1})

    def _repetition(self, least: int, most: int, body: t.Any, flags: int) -> _Part:
        if least > _MOST_PLACES:
            raise _Unknown
        is_endless = most == ENDLESS
        # What fewer times can be read as, more can be read as too.
        count = max(least, 1) if is_endless else min(most, max(least + 1, _OFTEN))
        parts = [self._sequence(body, flags) for _ in range(count)]
        rest = _Part(1, {}, {})
        for number in reversed(range(count)):
            if is_endless and number == count - 1:
                rest = self._repeat(parts[number])
            else:
                rest = self._join(parts[number], rest)
            if number >= least:
                rest = rest._replace(empty=min(2, 1 + rest.empty))
        return rest

    def _join(self, before: _Part, after: _Part) -> _Part:
        self._connect(before.last, after.first)
        return _Part(
            min(2, before.empty * after.empty),
            _added(before.first, after.first, before.empty),
            _added(after.last, before.last, after.empty),
        )

    def _repeat(self, part: _Part) -> _Part:
        self._connect(part.last, part.first)
        # re lets what may be empty be empty once more before it goes on.
        return part._replace(last=_added({}, part.last, 1 + part.empty))

    def _connect(self, last: Ways, first: Ways) -> None:
        for place, ways in last.items():
            self._next[place] = _added(self._next[place], first, ways)


def _added(ways: Ways, more: Ways, times: int) -> Ways:
    """*ways* and *times* as many as *more* has."""
    total = {**ways}
    if times:
        for place, count in more.items():
            total[place] = min(2, total.get(place, 0) + count * times)
    return total


def _word(came: t.Any, start: t.Any, there: t.Any) -> str:
    letters: list[str] = []
    while there != start:
        there, letter = came[there]
        letters.append(letter)
    # The last letter is the one that enters the first place.
    return letters[0] + "".join(reversed(letters[1:]))

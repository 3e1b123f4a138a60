"""Patterns matched by RE2, whose time grows with the length of a message and no faster.

A pattern is written anew for RE2 from the tree that :mod:`re` made of it, so that it means
the same; what RE2 cannot do is refused. The only place that knows google-re2.
"""

from __future__ import annotations

import array
import functools
import re
import sys
import typing as t

from .patterns import codes
from .patterns import ENDLESS
from .patterns import flags_within
from .patterns import Node
from .patterns import Nodes
from .patterns import ONE_CHARACTER
from .patterns import parse
from .patterns import REPEATS
from .patterns import runs

#: What RE2 has not, by the names of nodes.
_MISSING: t.Final = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "FAILURE": "look-around",
    "ATOMIC_GROUP": "atomic groups",
    "GROUPREF": "back-references",
    "GROUPREF_EXISTS": "conditional groups",
    "POSSESSIVE_REPEAT": "possessive repetitions",
}


class LinearPattern:
    """What a compiled pattern of :mod:`re` is for handlers, by RE2.

    :param pattern: the pattern.
    :param wanted: the named groups that are asked for.
    :raises ValueError: if RE2 cannot express the pattern. It says what.
    :raises RuntimeError: if google-re2 is not installed.
    """

    def __init__(self, pattern: re.Pattern[t.Any], wanted: t.Collection[str]) -> None:
        re2 = import_re2()
        self._is_text = isinstance(pattern.pattern, str)
        written = _Writer(pattern, wanted)
        self._groups = tuple(written.groups)
        options = re2.Options()
        options.log_errors = False  # to stderr
        if not self._is_text:
            options.encoding = re2.Options.Encoding.LATIN1
        try:
            self._match = re2.compile(written.source, options).match
        except re2.error as error:
            # What it says is bytes.
            reason = error.args[0] if error.args else ""
            reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
            raise ValueError(f"RE2 refuses it: {reason}.") from None

    def match(self, message: t.Any) -> dict[str, t.Any] | None:
        """The named groups of *message*, as ``pattern.match(message)`` has them; or None."""
        if not self._is_text:
            found = self._match(message)
            if found is None:
                return None
            return {name: found[number] for number, name in enumerate(self._groups, 1)}
        # RE2 reads UTF-8. Given text, it would count its characters each time.
        found = self._match(message.encode())
        if found is None:
            return None
        groups = {}
        for number, name in enumerate(self._groups, 1):
            group = found[number]
            groups[name] = None if group is None else group.decode()
        return groups


def import_re2() -> t.Any:
    """The module of google-re2.

    :raises RuntimeError: if it is missing.
    """
    try:
        import re2
    except ImportError:
        re2 = None
    if not hasattr(re2, "Options"):  # other packages have a module of that name
        raise RuntimeError(
            "WEBSOCKETS_REGEX is 're2', and the package google-re2 is missing. "
            "Install it: pip install google-re2."
        )
    return re2


class _Writer:
    """A pattern in the syntax of RE2: its source, and the names of its groups in order."""

    def __init__(self, pattern: re.Pattern[t.Any], wanted: t.Collection[str]) -> None:
        tree = parse(pattern)
        self._highest = sys.maxunicode if isinstance(pattern.pattern, str) else 255
        self._names = {number: name for name, number in pattern.groupindex.items()}
        self._wanted = wanted
        self.groups: list[str] = []
        self.source = self._sequence(tree, tree.state.flags, True).encode()

    def _sequence(self, nodes: Nodes, flags: int, is_last: bool) -> str:
        """*nodes*, one after the other.

        :param is_last: whether nothing comes behind, and no group or repetition ends there.
        """
        nodes = list(nodes)
        end = len(nodes) - 1
        return "".join(
            self._node(node, flags, is_last and place == end) for place, node in enumerate(nodes)
        )

    def _node(self, node: Node, flags: int, is_last: bool) -> str:
        op, value = node
        if flags & re.LOCALE:
            raise ValueError("RE2 has no re.LOCALE. Write the bytes: [a-z\\xe0-\\xff].")
        if op is codes.LITERAL and not flags & re.IGNORECASE:
            return _character(value)
        if op in ONE_CHARACTER:
            frozen = (op, tuple(value)) if op is codes.IN else node
            return _class(frozen, flags, self._highest)
        if op is codes.AT:
            return _anchor(value, flags, is_last)
        if op is codes.SUBPATTERN:
            number, added, removed, body = value
            flags = flags_within(flags, added, removed)
            name = self._names.get(number)
            if name is None or name not in self._wanted:
                return f"(?:{self._sequence(body, flags, is_last)})"
            self.groups.append(name)
            return f"({self._sequence(body, flags, False)})"
        if op is codes.BRANCH:
            bodies = [self._sequence(body, flags, is_last) for body in value[1]]
            return f"(?:{'|'.join(bodies)})"
        if op in REPEATS:
            least, most, body = value
            groups = len(self.groups)
            inner = self._sequence(body, flags, False)
            if len(self.groups) > groups and most > 1 and body.getwidth()[0] == 0:
                raise ValueError(
                    "RE2 does not repeat what may be empty as re does: give no name to a "
                    "group in there."
                )
            times = f"{{{least},{'' if most == ENDLESS else most}}}"
            lazy = "?" if op is codes.MIN_REPEAT else ""
            return f"(?:{inner}){times}{lazy}"
        missing = _MISSING.get(str(op), f"what re calls {op}")
        raise ValueError(f"RE2 has no {missing}.")


def _anchor(at: t.Any, flags: int, is_last: bool) -> str:
    if at is codes.AT_BEGINNING:
        return "(?m:^)" if flags & re.MULTILINE else r"\A"
    if at is codes.AT_BEGINNING_STRING:
        return r"\A"
    if at is codes.AT_END:
        if flags & re.MULTILINE:
            return "(?m:$)"
        if is_last:
            # Before a newline at the end, too. Whether the match has it, no handler sees.
            return r"(?:\n?\z)"
        raise ValueError(
            "RE2 cannot tell a newline at the end: write \\Z in place of $, or put $ at the end of "
            "the pattern and out of groups with names."
        )
    if at is codes.AT_END_STRING:
        return r"\z"
    if at is codes.AT_BOUNDARY and not flags & re.UNICODE:
        return r"\b"
    if at is codes.AT_BOUNDARY:
        raise ValueError("RE2 knows \\b of ASCII only: use re.ASCII.")
    raise ValueError("RE2 has no \\B that means the same.")


def _character(point: int) -> str:
    letter = chr(point)
    return letter if letter.isascii() and letter.isalnum() else rf"\x{{{point:x}}}"


@functools.lru_cache(maxsize=512)
def _class(node: Node, flags: int, highest: int) -> str:
    """All characters that *node* matches, as ``re`` of this Python has it: its Unicode, its
    categories, its notion of upper and lower case."""
    found = runs(node, flags, _all_characters(highest))
    if not found:
        return rf"[^\x{{0}}-\x{{{sys.maxunicode:x}}}]"
    letters = "".join(rf"\x{{{a:x}}}-\x{{{b - 1:x}}}" for a, b in found)
    # RE2 takes [Kk] for a k of either case and may then add the sign for kelvin; [Ss] likewise.
    # Once repeated, it is left alone.
    is_pair = len(found) == sum(b - a for a, b in found) == 2
    return f"[{letters}]{'{1}' if is_pair else ''}"


@functools.lru_cache(maxsize=2)
def _all_characters(highest: int) -> str:
    points = array.array("I", range(highest + 1)).tobytes()
    return points.decode(
        "utf-32" + ("-le" if sys.byteorder == "little" else "-be"), "surrogatepass"
    )

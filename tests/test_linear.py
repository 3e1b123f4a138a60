"""Patterns by RE2: that they mean what they mean to re, and what is refused."""

# ruff: noqa: RUF001
# Letters that look like others, or are others' capitals, are what it is about.

import re
import sys
import types
import typing as t
import warnings

import pytest
from hypothesis import assume
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_websockets.handlers import PatternHandler
from flask_websockets.linear import LinearPattern


def groups(pattern: re.Pattern[t.Any], message: t.Any) -> dict[str, t.Any] | None:
    """What re says."""
    match = pattern.match(message)
    return None if match is None else match.groupdict()


def by_re2(pattern: re.Pattern[t.Any], message: t.Any) -> dict[str, t.Any] | None:
    return LinearPattern(pattern, pattern.groupindex).match(message)


#: Patterns, their flags, and messages: at least one of them matches.
SAME: list[tuple[t.Any, int, list[t.Any]]] = [
    (r"^ECHO (?P<text>.*)", 0, ["ECHO hello", "ECHO a\nb", "ECHO ", "echo x", "é", ""]),
    (r"MOVE (?P<x>\d+)(,(?P<y>\d+))?", 0, ["MOVE 1", "MOVE 1,2", "MOVE ١,٢", "MOVE x"]),
    # Classes and cases are those of Unicode, unless re.ASCII says otherwise.
    (r"(?P<word>\w+)\s(?P<rest>\W*)", 0, ["né\u2003-", "a b", "ß\x1f"]),
    (r"(?P<word>\w+)\s(?P<rest>\W*)", re.ASCII, ["né\u2003-", "a é", "ß\x1f", "a\x1f"]),
    (r"(?P<word>[k-s]*)(?P<i>i*)", re.IGNORECASE, ["KLſs\u212aIİı", "iİ"]),
    (r"(?P<word>[k-s]*)(?P<i>i*)", re.I | re.A, ["KLſs\u212aIİı", "iİ"]),
    (r"(?P<word>([kK]|[^\W_])*)", re.ASCII, ["k\u212a", "\u212a", "sſ"]),
    (r"(?i:a)(?P<rest>b)", re.IGNORECASE, ["aB", "Ab"]),
    (r"(?-i:a)(?P<rest>b)", re.IGNORECASE, ["aB", "Ab"]),
    (r"(?P<a>(?a:\w))(?P<b>\w)", 0, ["aé", "éé"]),
    # The end, with and without a newline.
    (r"(?P<text>.*)$", re.DOTALL, ["a", "a\n", "a\n\n", "\n", ""]),
    (r"(?P<text>.*?)$", re.DOTALL, ["a", "a\n", "a\n\n", "\n", ""]),
    (r"(?P<text>a|b)$", 0, ["a", "a\n", "ab", "a\nb"]),
    (r"(?P<a>a)$|(?P<b>b)\Z", 0, ["a\n", "b\n", "b"]),
    (r"(?P<a>(?:^.*$\n?)*)", re.MULTILINE, ["a", "a\n", "a\nb\n\n", "\n"]),
    (r"(?P<a>a\n)^(?P<b>.*)", re.MULTILINE, ["a\nb", "a\n", "ab"]),
    (r"(?P<a>a\n)?^(?P<b>.*)", 0, ["a\nb", "b"]),
    (r"(?P<all>.)", 0, ["\n", "a", "\u2028", "😀"]),
    # Python's own syntax, and what only RE2 would take for some.
    (r" (?P<word> \w + ) \  # a comment", re.VERBOSE, ["ab ", "ab"]),
    (r"(?P<a>\101\x42\u0043\N{DIGIT ONE})", 0, ["ABC1"]),
    (r"(?P<a>a{,2})(?P<b>a{2}?)(?P<c>{a})?", 0, ["aaaaa", "aaa{a}", "aaaa{a}"]),
    (r"(?P<a>[\]\-^\\]+)(?P<b>[^]\-]*)", 0, ["]-^\\ab", "-a-"]),
    (r"\b(?P<a>a+)\b", re.ASCII, ["a", "aé", "ab", ""]),
    (r"(?P<a>a)??(?P<b>a*)(?:(?P<c>c)|d)*", 0, ["aacd", "dc", "cddcd"]),
    (r"(?P<never>a){0}(?P<a>a)?", 0, ["a", "b"]),
    (r"(?P<a>a)(?P<b>[^\s\S])?", 0, ["a", "ab"]),
    (r"(?P<a>a|ab)(?P<b>c|bcd)?(?P<c>d*)", 0, ["abcd", "acd"]),
    # Binary.
    (rb"(?s)\x01(?P<payload>.*)", 0, [b"\x01\xff\n\x00", b"\x02"]),
    (rb"(?P<a>\w+)(?P<b>[\x80-\xff]*)\b", 0, [b"ab\xe9\xff", b"\xe9", b"ab"]),
    (rb"(?P<a>[\xe0-\xff]+)k", re.IGNORECASE, [b"\xe9K", b"\xc9K"]),
    (b"(?P<a>\xc3\xa9|\xe9)$", 0, [b"\xc3\xa9", b"\xe9\n", b"\xc3"]),
]


def test_re2_says_what_re_says() -> None:
    for pattern, flags, messages in SAME:
        compiled = re.compile(pattern, flags)
        said = [groups(compiled, message) for message in messages]
        assert [by_re2(compiled, message) for message in messages] == said, pattern
        assert any(one is not None for one in said), pattern


def test_only_the_groups_that_are_wanted() -> None:
    pattern = LinearPattern(re.compile("(?P<a>.)(?P<b>.)(?P<c>.)"), {"c", "a"})
    assert pattern.match("xyz") == {"a": "x", "c": "z"}
    assert LinearPattern(re.compile("(?P<a>.)"), ()).match("xyz") == {}


END = (
    "RE2 cannot tell a newline at the end: write \\Z in place of $, or put $ at the end of the "
    "pattern and out of groups with names."
)
EMPTY = "RE2 does not repeat what may be empty as re does: give no name to a group in there."


REFUSED: list[tuple[t.Any, int, str]] = [
    (r"(a)\1", 0, "RE2 has no back-references."),
    (r"(?P<x>a)(?P=x)", 0, "RE2 has no back-references."),
    ("(?=a)", 0, "RE2 has no look-around."),
    ("(?!a)b", 0, "RE2 has no look-around."),
    ("(?!)", 0, "RE2 has no look-around."),
    ("a(?<=a)", 0, "RE2 has no look-around."),
    (r"x(?:y(?<!a))*", 0, "RE2 has no look-around."),
    ("(a)?(?(1)b|c)", 0, "RE2 has no conditional groups."),
    ("(?P<x>a$)", 0, END),
    ("a$\n?", 0, END),
    ("(?:a$)?", 0, END),
    (r"\ba", 0, "RE2 knows \\b of ASCII only: use re.ASCII."),
    (r"(?a:x)\b", 0, "RE2 knows \\b of ASCII only: use re.ASCII."),
    (r"\Ba", re.ASCII, "RE2 has no \\B that means the same."),
    (rb"\Ba", 0, "RE2 has no \\B that means the same."),
    ("(?P<x>a*)*", 0, EMPTY),
    ("(?:(?P<x>a)?)+", 0, EMPTY),
    ("(?P<x>a|){2}", 0, EMPTY),
    (b"a(?L:b)", 0, "RE2 has no re.LOCALE. Write the bytes: [a-z\\xe0-\\xff]."),
    (b"a", re.LOCALE, "RE2 has no re.LOCALE. Write the bytes: [a-z\\xe0-\\xff]."),
    ("a{1001}", 0, "RE2 refuses it: invalid repetition size: {1001,1001}."),
    (r"(?:\w{500}){2}", 0, "RE2 refuses it: pattern too large - compile failed."),
]


def hear(**groups: t.Any) -> None:
    """A handler that wants all groups."""


def test_what_re2_cannot_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for pattern, flags, why in REFUSED:
        with pytest.raises(ValueError) as refused:
            PatternHandler(hear, re.compile(pattern, flags)).linear()
        has = f"hear() has the pattern {pattern!r}, and WEBSOCKETS_REGEX is 're2'."
        assert str(refused.value) == f"{has} {why}"
    assert capfd.readouterr() == ("", "")  # RE2 would log it


@pytest.mark.skipif(sys.version_info < (3, 11), reason="re has none")
@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(?>a)", "RE2 has no atomic groups."), ("a++", "RE2 has no possessive repetitions.")],
)
def test_what_re_has_since_3_11(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        LinearPattern(re.compile(pattern), ())


def test_a_group_that_nobody_wants_is_no_hindrance() -> None:
    assert LinearPattern(re.compile("(?P<x>a*)*b$"), ()).match("aab\n") == {}


@pytest.mark.parametrize("module", [None, types.ModuleType("re2")])
def test_without_the_package(monkeypatch: pytest.MonkeyPatch, module: t.Any) -> None:
    # Others have a module of that name too.
    monkeypatch.setitem(sys.modules, "re2", module)
    with pytest.raises(RuntimeError) as missing:
        LinearPattern(re.compile("a"), ())
    assert str(missing.value) == (
        "WEBSOCKETS_REGEX is 're2', and the package google-re2 is missing. "
        "Install it: pip install google-re2."
    )


def test_a_long_message_of_an_exploding_pattern() -> None:
    for source in ("^(a+)+$", "(a|a)*b", "(?P<all>(.*)*x)", r"([a-z]+\d*)+$"):
        pattern = LinearPattern(re.compile(source), {"all"})
        assert pattern.match("a" * 1_000_000 + "!") is None


# By chance

ATOMS = [
    "a", "b", "A", "é", "É", ".", r"\w", r"\d", r"\s", r"\W", r"\S", "[ab]", "[^a]", "[a-c]",
    r"[^\W_]", r"\n", " ", "1", "ſ", "[kK]", "[k-s]", "k", "\u212a", "İ", "i", "ß", "٣", "-",
    "^", r"\A", r"\Z", "$",
]  # fmt: skip
LETTERS = "abAéÉ1 \nkK\u212asſİiß٣_-"
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,3}?", "{0}"]


def larger(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(smaller, smaller)
    return st.one_of(
        st.lists(smaller, max_size=3).map("".join),
        pairs.map(lambda both: f"(?:{both[0]}|{both[1]})"),
        pairs.map(lambda both: f"(?P<NAME>{both[0]}){both[1]}"),
        smaller.map(lambda one: f"(?P<NAME>{one})"),
        st.tuples(smaller, st.sampled_from(REPEATS)).map(lambda both: f"(?:{both[0]}){both[1]}"),
        st.tuples(st.sampled_from(["i", "s", "m", "-i", "a"]), smaller).map(
            lambda both: f"(?{both[0]}:{both[1]})"
        ),
    )


def named(source: str) -> str:
    """Each group with a name of its own."""
    first, *rest = source.split("NAME")
    return first + "".join(f"g{number}{piece}" for number, piece in enumerate(rest))


sources = st.recursive(st.sampled_from(ATOMS), larger, max_leaves=8).map(named)
flag_sets = st.sampled_from([0, 0, re.I, re.M, re.S, re.A, re.I | re.A, re.X])
texts = st.lists(st.text(LETTERS, max_size=6), min_size=5, max_size=10)


@settings(max_examples=120, deadline=None)
@given(sources, flag_sets, texts, st.booleans())
@example("(?P<g0>[kK]|[^\\W_])", re.I | re.A, ["\u212a", "K"], False)
def test_whatever_the_pattern_both_say_the_same(
    source: str, flags: int, messages: list[str], is_binary: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pattern: re.Pattern[t.Any] = (
                re.compile(source.encode("latin-1"), flags & ~re.A)
                if is_binary
                else re.compile(source, flags)
            )
        except (re.error, ValueError):
            assume(False)
    try:
        linear = LinearPattern(pattern, pattern.groupindex)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    assert refused in ("", END, EMPTY)
    assume(not refused)
    for text in messages:
        message = text.encode("latin-1", "replace") if is_binary else text
        assert linear.match(message) == groups(pattern, message), (message, linear)

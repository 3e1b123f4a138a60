"""Which patterns can explode: what is found against counting what a backtracking engine tries."""

# ruff: noqa: RUF001
# Letters that look like others are read as others, too.

import functools
import itertools
import re
import subprocess
import sys
import typing as t

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import reject
from hypothesis import settings
from hypothesis import strategies as st

from flask_websockets import patterns
from flask_websockets.patterns import find_pump

# Known ones


EXPLODE: dict[t.Any, t.Any] = {
    "^(a+)+$": "a",
    "(a*)*": "a",
    "(a*?)*?b": "a",
    "(a|a)*": "a",
    "(a|aa)+": "aa",
    "(a|b|ab)*": "aab",
    "(.*)*x": "a",
    "(x+x+)+y": "xx",
    r"([a-z]+\d*)+$": "a",
    r"^(\w+\s?)*$": "a",
    "(?:b?c?)*d": "bc",
    r"^(\d+|[0-9a-f]+)*,": "0",
    r"(\s*,\s*)*x": "\t,\t",
    # Passed empty in two ways, between characters that can be read in one way only.
    "(?:(?:a?)*b)*": "ab",
    "((|x?)a)*": "xaa",
    # Bounded ones, within others and around them.
    "(a{1,3})*": "aa",
    "((a?){3}b)*": "aab",
    "(a{2,})*": "aaaa",
    "(a+){10}": "a",
    "(a+){2,40}$": "a",
    # Wherever it is.
    "x(?=(a+)+$)": "a",
    "x|(y(?i:(k+)+))": "k",
    r"(\b(a+)+)*": "a",
    # Where two classes meet, a letter is found.
    "([б-я]+|[в-д])*": "б",
    "([^б]+|[д-ж])*": "a",
    "([\u4e00-\u9fff]+|[一二三])*!": "一",
    r"([^a-zA-Z\W]|0)*": "00",
    "(?i)(kx|\u212ax)*": "kxkx",
    "(?x) ( a + ) + # one in the other": "a",
    b"(\xff+)+$": b"\xff",
    rb"(\w+\s?)*$": b"a",
    b"(?L:(a+)+)": b"a",
}
HARMLESS: list[t.Any] = [
    "",
    "()*",
    "(|)*",
    "^ECHO (?P<text>.*)",
    "(ab)+",
    r"(\w+,)*",
    r"\d+-\d+",
    r'"(?:[^"\\]|\\.)*"',
    r"^(?:\d+\.)+\d+$",
    r"^\w+(?: \w+)*$",
    r"(?:\w{1,63}\.){1,10}\w+",
    "([0-9a-f]{32},?)*",
    "(a?)*",
    "(a{3})*",
    "(ab|ac|ad)*",
    "(a+)?",
    "(a+){2}$",
    r"(\w|\d)*",
    # A power of the length is much, but does not double.
    "a*a*a*$",
    ".*x.*y.*z",
    # What cannot be judged exactly is not judged.
    r"(?:\b\w+\b\s*)*",
    "(?m)(?:^.*$\n?)*",
    r"((a)|\2)*",
    "((?!b)a+)*",
    "(x{1000}x?)*",
    # Letters that are one with re.IGNORECASE only, and what re itself makes one class of.
    "(?i)(k|\u212a)*",
    "(k|K)*",
    "(?i:k)*(kx|Kx)*",
    rb"(\xff|\xfe)*",
    "(?:" + "|".join(f"word{number}" for number in range(100)) + ")*",
]


def test_a_pattern_that_explodes_with_what() -> None:
    assert {pattern: find_pump(re.compile(pattern)) for pattern in EXPLODE} == EXPLODE


def test_a_harmless_pattern() -> None:
    assert [one for one in HARMLESS if find_pump(re.compile(one)) is not None] == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="re has none")
@pytest.mark.parametrize("pattern", ["((?>a+))+", "(a++)+", "(?>(a+)+)b", "(a+)++b"])
def test_what_is_not_given_back_is_not_judged(pattern: str) -> None:
    assert find_pump(re.compile(pattern)) is None


def test_flags_count() -> None:
    assert find_pump(re.compile("(.|\n)*")) is None
    assert find_pump(re.compile("(.x|\nx)*", re.DOTALL)) == "ax\nx"
    assert find_pump(re.compile("(.x|\nx)*")) is None
    assert find_pump(re.compile("(éx|[^\\W_]x)*")) == "éxéx"
    assert find_pump(re.compile("(éx|[^\\W_]x)*", re.ASCII)) is None
    assert find_pump(re.compile("(kx|Kx)*", re.IGNORECASE)) == "kxkx"


def test_a_search_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_MOST_STEPS", 5)
    assert find_pump(re.compile("(?:abcdefghijk|abcdefghijk)*")) is None
    monkeypatch.setattr(patterns, "_MOST_PLACES", 3)
    assert find_pump(re.compile("(abcd*)*")) is None
    assert find_pump(re.compile("(abc*)*")) is None
    assert find_pump(re.compile("(ab+)*")) is None
    assert find_pump(re.compile("(b+)*")) == "b"


def test_parsing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    compiled = re.compile("(a+)+", re.DEBUG)
    capfd.readouterr()
    assert find_pump(compiled) == "a"
    assert capfd.readouterr() == ("", "")


# In truth

ENDLESS = """
import re
print("begun", flush=True)
re.match("^(a+)+$", "a" * 40 + "!")
print("done", flush=True)
"""


def test_one_message_keeps_re_busy_for_good() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
        finally:
            process.kill()


# Against the slow twin

#: How many attempts there are from a place on, with where each repetition around began.
Attempts = t.Callable[[int, tuple[int, ...]], int]


class Tries:
    """Counts what a backtracking engine tries before it gives up on a word, one by one but
    without trying again what it knows.

    :param nodes: the parsed pattern.
    """

    def __init__(self, nodes: t.Any) -> None:
        self._word = ""
        self._memory: list[t.Any] = []
        self._attempts = self._sequence(list(nodes), lambda at, began: 1)

    def count(self, word: str) -> int:
        self._word = word
        for one in self._memory:
            one.cache_clear()
        # From behind, so that no call goes deep.
        return [self._attempts(at, ()) for at in reversed(range(len(word) + 1))][-1]

    def _sequence(self, nodes: list[t.Any], then: Attempts) -> Attempts:
        for node in reversed(nodes):
            then = self._remembered(self._node(*node, then))
        return then

    def _node(self, op: t.Any, value: t.Any, then: Attempts) -> Attempts:
        name = str(op)
        if name == "SUBPATTERN":
            return self._sequence(list(value[3]), then)
        if name == "BRANCH":
            bodies = [self._sequence(list(body), then) for body in value[1]]
            return lambda at, began: 1 + sum(body(at, began) for body in bodies)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(*value, then)
        letters = {"LITERAL": lambda: {value}, "IN": lambda: {code for _, code in value}}[name]()

        def take(at: int, began: tuple[int, ...]) -> int:
            fits = at < len(self._word) and ord(self._word[at]) in letters
            return 1 + (then(at + 1, began) if fits else 0)

        return take

    def _repeat(self, least: int, most: t.Any, body: t.Any, then: Attempts) -> Attempts:
        if most == patterns.ENDLESS:
            then = self._remembered(self._star(list(body), then))
        else:
            after = then
            for _ in range(most - least):
                then = self._optional(self._sequence(list(body), then), after)
        for _ in range(least):
            then = self._sequence(list(body), then)
        return then

    def _optional(self, once: Attempts, then: Attempts) -> Attempts:
        return lambda at, began: 1 + once(at, began) + then(at, began)

    def _star(self, body: list[t.Any], then: Attempts) -> Attempts:
        def enter(at: int, began: tuple[int, ...]) -> int:
            return 1 + once(at, (*began, at)) + then(at, began)

        def again(at: int, began: tuple[int, ...]) -> int:
            # What was empty is not repeated.
            return (then if at == began[-1] else entered)(at, began[:-1])

        entered = self._remembered(enter)
        once = self._sequence(body, again)
        return entered

    def _remembered(self, attempts: Attempts) -> Attempts:
        self._memory.append(functools.lru_cache(None)(attempts))
        return t.cast(Attempts, self._memory[-1])


WORDS = ["".join(word) for n in (1, 2, 3) for word in itertools.product("ab", repeat=n)]


def doubles(pattern: re.Pattern[str], words: t.Iterable[str]) -> bool:
    """Whether the attempts grow with a power of two of how often one of *words* is there."""
    tries = Tries(patterns.parse(pattern))
    return any(
        tries.count(begin + word * 16) > 100 * tries.count(begin + word * 8)
        for word in words
        for begin in ("", "a", "b")
    )


@functools.cache
def bodies(depth: int) -> st.SearchStrategy[str]:
    letters = st.sampled_from(["a", "b", "[ab]"])
    if depth == 0:
        return letters
    smaller = bodies(depth - 1)
    return st.one_of(
        letters,
        st.tuples(smaller, smaller).map("".join),
        st.tuples(smaller, smaller).map(lambda both: f"(?:{both[0]}|{both[1]})"),
        st.tuples(smaller, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,3}"])).map(
            lambda both: f"(?:{both[0]}){both[1]}"
        ),
    )


@settings(max_examples=60, deadline=None)
@given(bodies(3).map(lambda body: f"(?:{body})*"))
@example("(?:a?b?)*")
@example("(?:(?:a{1,3})b)*")
def test_a_pump_is_found_where_attempts_double(source: str) -> None:
    pattern = re.compile(source)
    pump = find_pump(pattern)
    try:
        assert doubles(pattern, WORDS if pump is None else [str(pump)]) == (pump is not None)
    except RecursionError:
        reject()  # the twin goes too deep

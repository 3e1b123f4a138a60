"""Which handlers hear a message: the index by literal beginnings against trying each."""

import enum
import re
import time
import typing as t
import warnings

import pytest
from flask import Flask
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_websockets.handlers import Handlers
from flask_websockets.handlers import Incoming
from flask_websockets.handlers import Index
from flask_websockets.handlers import JSONHandler
from flask_websockets.handlers import literal_prefix
from flask_websockets.handlers import MessageHandler
from flask_websockets.handlers import PatternHandler
from flask_websockets.handlers import UNHEARD

APP = Flask("tests")

#: A piece of a pattern and a string that it matches, as a rule.
Piece = tuple[str, str]


def hears(handler: MessageHandler, message: t.Any) -> bool:
    return handler.hear(Incoming(message, APP), {}) is not UNHEARD


def heard(handlers: t.Sequence[MessageHandler], message: t.Any) -> list[t.Any]:
    """The replies of all *handlers* that hear *message*, in order: the slow twin."""
    incoming = Incoming(message, APP)
    replies = [handler.hear(incoming, {}) for handler in handlers]
    return [reply for reply in replies if reply is not UNHEARD]


def number(count: int) -> t.Callable[[], int]:
    """A handler that says its number."""
    return lambda: count


def pattern_handler(count: int, pattern: t.Any, flags: int = 0) -> PatternHandler:
    return PatternHandler(number(count), re.compile(pattern, flags))


# Beginnings


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("", ""),
        ("ECHO", "ECHO"),
        ("^ECHO", "ECHO"),
        ("ECHO$", "ECHO"),
        (r"^ECHO (?P<text>.*)", "ECHO "),
        (r"\AECHO", ""),
        (r"a\.b\|c", "a.b|c"),
        (r"a\\d", "a\\d"),
        (r"a\d", "a"),
        (r"a\n", "a"),
        ("a\n", "a\n"),
        ("a.b", "a"),
        ("ab*", "a"),
        ("ab?c", "a"),
        ("ab+c", "ab"),
        ("ab{2}", "a"),
        ("ab{,2}", "a"),
        ("a{", ""),
        (r"a\*", "a*"),
        (r"a\**", "a"),
        (r"a\*+", "a*"),
        ("a}", "a}"),
        ("ab]c", "ab"),
        ("a[bc]", "a"),
        ("ab|ac", ""),
        ("(ab|ac)", ""),
        ("a(b|c)", "a"),
        ("a(?:b|c)", "a"),
        ("a[|]b", "a"),
        ("a[]|]b", "a"),
        ("a[^]|]b", "a"),
        ("a[(]b|c", ""),
        (r"a[\]|]b", "a"),
        (r"a[\]]|b", ""),
        (r"a\(|b", ""),
        (r"a\[|b]", ""),
        ("a(?=b|c)", "a"),
        ("a(?!b|c)", "a"),
        ("a(?i:b)", "a"),
        ("(?i:a)b", ""),
        ("(?i)ab", ""),
        ("(?x)a b", ""),
        ("(?m)^ab", ""),
        ("(?s)ab", ""),
        ("a(?#b)c", ""),
        ("a(?#|)c", ""),
        ("a(?#(|)|c", ""),
        ("ab(?#c)*", ""),
        ("(x)?(?(1)a|b)", ""),
        ("a(x)?(?(1)a|b)", "a"),
        ("é^", "é"),
        (b"ECHO", b"ECHO"),
        (rb"a\.b", b"a.b"),
        (rb"a\x00", b"a"),
        (b"a\x00b*", b"a\x00"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"a|b", b""),
    ],
)
def test_the_beginning_of_a_pattern(pattern, prefix):
    found = literal_prefix(re.compile(pattern))
    assert found == prefix
    assert type(found) is type(prefix)


@pytest.mark.parametrize(
    ("flags", "prefix"),
    [
        (re.IGNORECASE, ""),
        (re.VERBOSE, ""),
        (re.DOTALL, "a b"),
        (re.MULTILINE, "a b"),
        (re.ASCII, "a b"),
        (re.IGNORECASE | re.DOTALL, ""),
    ],
)
def test_the_beginning_of_a_pattern_with_flags(flags, prefix):
    assert literal_prefix(re.compile("^a b", flags)) == prefix


# In order, and all of them

KNOWN = [
    "ECHO (?P<text>.*)",
    "ECHO",
    "^EC",
    "ec",
    "(?i)echo",
    "E|x",
    "",
    "ECHOES?",
    ".*",
    r"ECHO\b",
    r"\{",
    "X",
    "ECHO (?!b)",
    "é",
]


@pytest.mark.parametrize("count", [0, 1, 4, 5, len(KNOWN)])
@pytest.mark.parametrize("message", ["", "E", "EC", "ECHO", "ECHO b", "echo", "x", "X", "é", "{"])
def test_an_index_finds_what_trying_each_finds(count, message):
    handlers = [pattern_handler(*one) for one in enumerate(KNOWN[:count])]
    assert heard(Index(handlers).find(message), message) == heard(handlers, message)


def test_text_and_binary_catch_alls_and_json():
    handlers = Handlers()
    everything = [
        MessageHandler(number(0)),
        pattern_handler(1, "{"),
        pattern_handler(2, b"{"),
        JSONHandler(number(3), {"type": "move"}),
        pattern_handler(4, '{"type'),
        JSONHandler(number(5), {}),
        pattern_handler(6, rb"\{.type"),
        pattern_handler(7, "x"),
        pattern_handler(8, b"x"),
        JSONHandler(number(9), {"type": "stop"}),
        pattern_handler(10, ""),
        pattern_handler(11, b""),
    ]
    for handler in everything:
        handlers.add_message_handler(handler)

    def replies(message):
        return heard(handlers.candidates(message), message)

    # Those with a pattern or a filter go before those that hear all.
    assert replies('{"type": "move"}') == [1, 3, 4, 10, 0, 5]
    assert replies('{"type": "stop"}') == [1, 4, 9, 10, 0, 5]
    assert replies("x") == [7, 10, 0]
    assert replies("1") == [10, 0, 5]
    assert replies("") == [10, 0]
    assert replies(b'{"type": "move"}') == [2, 6, 11, 0]
    assert replies(b"x") == [8, 11, 0]
    assert replies(b"") == [11, 0]


def test_a_handler_is_found_as_soon_as_it_is_added():
    handlers = Handlers()
    for count in range(20):
        assert heard(handlers.candidates("key"), "key") == list(range(count))
        handlers.add_message_handler(pattern_handler(count, "key"[: count % 4]))


def test_a_thousand_patterns():
    handlers = Handlers()
    everything = []
    for count in range(1000):
        everything.append(pattern_handler(count, rf"^COMMAND{count:04} (?P<rest>.*)"))
        handlers.add_message_handler(everything[-1])
    for count in range(1000):
        message = f"COMMAND{count:04} rest"
        # Of those with other beginnings none is tried.
        assert list(handlers.candidates(message)) == [everything[count]]
    assert list(handlers.candidates("COMMAND")) == []
    assert list(handlers.candidates(b"COMMAND0001 rest")) == []


def test_a_thousand_patterns_of_all_lengths():
    sources = ["abcdefghij"[: count % 10] + ("" if count % 3 else "k?") for count in range(1000)]
    everything = [pattern_handler(*one) for one in enumerate(sources)]
    index = Index(everything)
    for message in ("", "a", "abc", "abck", "abcdefghij", "abcdefghijk", "b"):
        assert heard(index.find(message), message) == heard(everything, message)


def test_finding_among_a_thousand_takes_no_thousand_times_as_long():
    def seconds(count: int) -> float:
        index = Index([pattern_handler(i, f"COMMAND{i:04} ") for i in range(count)])
        best = 1e9
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                index.find("COMMAND0001 rest")
            best = min(best, time.perf_counter() - started)
        return best

    # In truth it is about the same; trying each would be a hundred times.
    assert seconds(1000) < 20 * seconds(10)


# Against the slow twin, by chance

LETTERS = "abAB"
ODD = ".|()[]{}*+?^$\\#- \n_é1"


def literals() -> st.SearchStrategy[Piece]:
    escaped = st.sampled_from(ODD).map(lambda char: (re.escape(char), char))
    plain = st.sampled_from(LETTERS + "}- #\n_é1\xff").map(lambda char: (char, char))
    pairs = [("\\d", "1"), ("\\w", "a"), ("\\s", " "), ("\\n", "\n"), ("\\x61", "a")]
    pairs += [("\\141", "a"), (".", "b"), ("\\S", "a"), ("\\/", "/")]
    return st.one_of(plain, plain, escaped, st.sampled_from(pairs))


CLASSES: list[Piece] = [
    ("[ab]", "a"),
    ("[^ab]", "x"),
    ("[]a]", "]"),
    ("[^]a]", "b"),
    ("[(]", "("),
    ("[)|(]", "|"),
    (r"[\]|]", "|"),
    (r"[\\]", "\\"),
    (r"[^\]]", "a"),
    ("[a-z(?#]", "#"),
    ("[*+?{}]", "*"),
]
EMPTY: list[Piece] = [
    ("^", ""),
    ("$", ""),
    ("(?=a|b)", ""),
    ("(?!b|[(])", ""),
    ("(?<!x)", ""),
    ("(?<=a)", ""),
    ("\\b", ""),
    ("\\B", ""),
    ("\\A", ""),
    ("(?#a)", ""),
    ("(?#a|b)", ""),
    ("(?#()", ""),
    ("(?#[)", ""),
    ("()", ""),
    ("(?:)", ""),
    ("(?(1)a|b)", "b"),
]
QUANTIFIERS: list[tuple[str, int]] = [
    ("*", 0), ("+", 1), ("?", 0), ("*?", 0), ("+?", 2), ("??", 0), ("?", 1), ("*", 2),
    ("{0}", 0), ("{2}", 2), ("{1,}", 1), ("{,2}", 0), ("{0,1}?", 0), ("{", 1), ("{a}", 1),
]  # fmt: skip
GROUPS = ["({})", "(?:{})", "(?i:{})", "(?s-i:{})", "(?={0}){0}"]


def joined(pieces: t.Sequence[Piece]) -> Piece:
    return "".join(source for source, _ in pieces), "".join(sample for _, sample in pieces)


def quantified(piece: Piece, quantifier: tuple[str, int]) -> Piece:
    source, sample = piece
    text, times = quantifier
    if text in ("{", "{a}"):
        return source + text, sample + text  # no quantifier at all
    return source + text, sample * times


def larger(smaller: st.SearchStrategy[Piece]) -> st.SearchStrategy[Piece]:
    sequences = st.lists(smaller, max_size=4).map(joined)
    alternatives = st.tuples(sequences, sequences).map(
        lambda both: (f"{both[0][0]}|{both[1][0]}", both[1][1])
    )
    groups = st.tuples(st.sampled_from(GROUPS), st.one_of(sequences, alternatives)).map(
        lambda pair: (pair[0].format(pair[1][0]), pair[1][1])
    )
    repeated = st.tuples(st.one_of(smaller, groups), st.sampled_from(QUANTIFIERS)).map(
        lambda pair: quantified(*pair)
    )
    return st.one_of(smaller, groups, repeated, alternatives)


atoms = st.one_of(literals(), literals(), st.sampled_from(CLASSES), st.sampled_from(EMPTY))
sources = st.lists(st.recursive(atoms, larger, max_leaves=6), max_size=5).map(joined)
starts = st.sampled_from(["", "", "", "^", "(?i)", "(?s)", "(?m)", "(?x)", "(?ix)", "(?m)^"])
flag_sets = st.sampled_from([0, 0, 0, re.I, re.X, re.S, re.M, re.A, re.I | re.X])


class Tried(t.NamedTuple):
    """A pattern that compiles, and a string that it matches as a rule."""

    pattern: re.Pattern[t.Any]
    sample: t.Any


@st.composite
def patterns(draw: st.DrawFn) -> Tried:
    source, sample = draw(sources)
    source = draw(starts) + source
    flags = draw(flag_sets)
    is_binary = draw(st.booleans())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if is_binary:
                return Tried(
                    re.compile(source.encode("latin-1"), flags & ~re.A), sample.encode("latin-1")
                )
            return Tried(re.compile(source, flags), sample)
        except (re.error, FutureWarning, DeprecationWarning, OverflowError):
            escaped = re.escape(sample)
            return Tried(re.compile(escaped), sample)


texts = st.text(LETTERS + ODD + "\xff", max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(patterns(), min_size=1, max_size=12), st.lists(texts, max_size=4), texts)
@example([Tried(re.compile("a|b"), "b")] * 5, ["b"], "")
@example([Tried(re.compile("a?"), "")] * 5, ["b"], "")
def test_the_index_finds_what_trying_each_finds(tried, others, rest):
    handlers = Handlers()
    everything = [PatternHandler(number(i), one.pattern) for i, one in enumerate(tried)]
    catch_all = MessageHandler(number(-1))
    for handler in [catch_all, *everything]:
        handlers.add_message_handler(handler)
    samples = [one.sample for one in tried]
    messages: list[t.Any] = []
    for message in [*samples, *others]:
        text = message.decode("latin-1") if isinstance(message, bytes) else message
        for more in (text, text + rest, text.swapcase(), text[1:]):
            messages += [more, more.encode("latin-1", "replace")]
    for message in messages:
        found = heard(handlers.candidates(message), message)
        assert found == heard([*everything, catch_all], message), message


@settings(max_examples=300, deadline=None)
@given(patterns(), texts)
def test_what_a_pattern_matches_begins_with_its_beginning(tried, other):
    prefix = literal_prefix(tried.pattern)
    assert type(prefix) is type(tried.pattern.pattern)
    as_sample = other.encode("latin-1") if isinstance(tried.sample, bytes) else other
    for message in (tried.sample, as_sample, tried.sample[1:], tried.sample[:0]):
        if tried.pattern.match(message):
            assert message.startswith(prefix)


def test_a_group_that_allows_comments_says_nothing_of_the_beginning():
    pattern = re.compile("a(?x:#(\n)|b")
    assert pattern.match("b")
    assert literal_prefix(pattern) == ""


def test_a_pattern_of_a_class_of_strings():
    class Command(str, enum.Enum):
        ECHO = "^ECHO"

    handler = PatternHandler(lambda: "heard", re.compile(Command.ECHO))
    assert handler.hear(Incoming("ECHO", Flask("tests")), {}) == "heard"

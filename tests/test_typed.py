"""Messages that are read as types: by msgspec, and models by pydantic."""

import enum
import subprocess
import sys
import typing as t
import uuid
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pydantic
import pytest
from flask import jsonify
from msgspec import Meta
from msgspec import Struct
from support import serving
from support import ThreadServer
from test_dispatch import replies
from test_dispatch import the_error

from flask_websockets import InvalidMessage
from flask_websockets import WebSocketError
from flask_websockets import WebSockets
from flask_websockets.typed import encode
from flask_websockets.typed import Types

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import typed_messages

UUID = "12345678-1234-5678-1234-567812345678"


class Move(Struct, tag="move"):
    x: int
    y: int = 0


class Say(Struct, tag="say"):
    text: str


class Plain(Struct):
    x: int


class Renamed(Struct, tag=7, tag_field="kind", rename="camel"):
    the_number: int


class PointArray(Struct, tag="point", array_like=True):
    x: int


class LineArray(Struct, tag="line", array_like=True):
    x: int
    y: int


class Cat(Struct):
    type: t.Literal["cat", "kitten"]
    lives: int = 9


@dataclass
class Jump:
    type: t.Literal["jump"]
    height: float


@dataclass
class Bare:
    x: int


class Sleep(t.TypedDict):
    type: t.Literal["sleep"]
    hours: t.NotRequired[int]


class Buy(pydantic.BaseModel):
    type: t.Literal["buy"] = "buy"
    price: float


class Sell(pydantic.BaseModel):
    kind: t.Literal["sell"] = pydantic.Field(alias="type")
    price: float


@pydantic.dataclasses.dataclass
class Give:
    type: t.Literal["give"]
    to: str


class Colour(enum.Enum):
    RED = "red"


class Item(Struct):
    price: float


@dataclass
class Step:
    way: t.Literal["up", "down"] | int | None


class Nested(Struct):
    by: dict[str, Step]
    pairs: list[tuple[int, t.Literal["y"]]] = []


class Order(Struct, forbid_unknown_fields=True):
    items: list[Item] = []
    count: t.Annotated[int, Meta(ge=0)] = 0
    name: t.Annotated[str, Meta(max_length=3, pattern="^a")] = "a"
    colour: Colour = Colour.RED
    size: t.Literal["s", "m"] = "s"
    day: date | None = None
    key: uuid.UUID | None = None
    amounts: dict[str, int] = {}
    places: dict[int, int] = {}
    pair: tuple[int, int] = (1, 2)
    either: int | str | None = None
    fives: t.Annotated[int, Meta(multiple_of=5, title="fives")] = 0
    nested: list[Nested] = []

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("thirteen brings bad luck")


class ModelItem(pydantic.BaseModel):
    price: float


class ModelOrder(pydantic.BaseModel, extra="forbid"):
    items: list[ModelItem] = []
    count: t.Annotated[int, pydantic.Field(ge=0)] = 0
    name: t.Annotated[str, pydantic.Field(max_length=3)] = "a"
    colour: Colour = Colour.RED
    size: t.Literal["s", "m"] = "s"
    day: date | None = None
    on: bool = True
    amounts: dict[str, int] = {}
    pair: tuple[int, int] = (1, 2)
    either: int | list[int] = 0

    @pydantic.field_validator("count")
    @classmethod
    def judge(cls, count):
        if count == 13:
            raise ValueError("thirteen brings bad luck")
        if count == 14:
            raise AssertionError("fourteen neither")
        return count


@pytest.fixture
def serve():
    """On one driver: types are the same on both."""
    with serving(ThreadServer) as start:
        yield start


def read(message, *types):
    """What an endpoint with these types makes of a message: the value, or the fault."""
    union = Types()
    for type in types:
        union.add(type)
    reading = union.read(message)
    return reading.value if reading.fault is None else str(reading.fault)


def output(code):
    """What a program prints, warnings too."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=-1, stderr=-2, text=True, timeout=60).stdout


# What is read


@pytest.mark.parametrize(
    ("type", "message", "value"),
    [
        (Plain, '{"x": 1, "more": 2}', Plain(1)),
        (Move, '{"type": "move", "x": 1}', Move(1)),
        (Bare, '{"x": 1}', Bare(1)),
        (Sleep, '{"type": "sleep"}', {"type": "sleep"}),
        (Buy, '{"price": 1}', Buy(price=1.0)),
        (Give, '{"type": "give", "to": "Ada"}', Give("give", "Ada")),
        (Move | Say, '{"type": "say", "text": "é"}', Say("é")),
        (t.Union[Move, Say], '{"type": "move", "x": 1}', Move(1)),
        (t.Annotated[Buy | Sell, "note"], '{"type": "sell", "price": 1}', None),
        (PointArray | LineArray, '["line", 1, 2]', LineArray(1, 2)),
        (list[Plain], '[{"x": 1}]', [Plain(1)]),
        (int | str, '"a"', "a"),
        (Renamed, '{"kind": 7, "theNumber": 1}', Renamed(1)),
    ],
)
def test_a_type_is_read(type, message, value):
    found = read(message, type)
    assert found == (Sell(type="sell", price=1.0) if value is None else value)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ('{"type": "move", "x": 1}', Move(1)),
        ('{"x": 1, "type": "move"}', Move(1)),
        ('{"type": "cat"}', Cat("cat")),
        ('{"type": "kitten", "lives": 1}', Cat("kitten", 1)),
        ('{"type": "jump", "height": 2}', Jump("jump", 2.0)),
        ('{"type": "sleep", "hours": 8}', {"type": "sleep", "hours": 8}),
        ('{"type": "buy", "price": 1}', Buy(price=1.0)),
        ('{"type": "sell", "price": 1}', Sell(type="sell", price=1.0)),
        ('{"type": "give", "to": "Ada"}', Give("give", "Ada")),
    ],
)
def test_types_of_all_kinds_are_told_apart_by_one_field(message, value):
    assert read(message, Move, Cat, Jump, Sleep, Buy | Sell, Give) == value


def test_a_tag_may_be_a_number_and_have_any_name():
    class Other(Struct, tag=8, tag_field="kind"):
        pass

    @dataclass
    class Third:
        kind: t.Literal[9]

    assert read('{"kind": 8}', Renamed, Other) == Other()
    assert read('{"kind": 9}', Renamed, Other, Third) == Third(9)
    assert read('{"kind": true}', Renamed, Other, Third) == "$.kind: expected 7 or 8 or 9, got true"


def test_the_field_that_tells_all_apart_is_found():
    @dataclass
    class First:
        version: t.Literal[1]
        type: t.Literal["first"]

    @dataclass
    class Second:
        version: t.Literal[1]
        type: t.Literal["second"]

    assert read('{"version": 1, "type": "second"}', First, Second) == Second(1, "second")


def test_binary_messages_are_nothing_and_no_fault():
    reading = Types().read(b"{}")
    assert (reading.variant, reading.fault) == (None, None)


# What is refused


@pytest.mark.parametrize(
    ("types", "names"),
    [
        ((Plain, Bare), "Plain and Bare"),
        ((Plain | Bare,), "Plain and Bare"),
        ((Move, Plain), "Move and Plain"),
        ((Move, Say, Renamed), "Move and Renamed"),
        ((Move | Say, Bare), "Move and Bare"),
        ((Jump, dict[str, int]), "Jump and dict"),
        ((Move, PointArray), "Move and PointArray"),
        ((Cat, Cat | Buy, Bare), "Cat and Bare"),
    ],
)
def test_types_that_cannot_be_told_apart_are_refused(types, names):
    with pytest.raises(TypeError) as caught:
        read("{}", *types)
    assert str(caught.value).startswith(f"{names} cannot be told apart in JSON. Give each a tag")


def test_the_same_tag_twice_is_refused():
    class Walk(Struct, tag="move"):
        pass

    with pytest.raises(TypeError, match=r"^Move and .*Walk cannot be told apart"):
        read("{}", Move, Say, Walk)


def test_no_field_for_all_is_refused():
    @dataclass
    class A:
        type: t.Literal["a"]
        kind: t.Literal["a"]

    @dataclass
    class B:
        type: t.Literal["b"]
        kind: t.Literal["a"]

    @dataclass
    class C:
        type: t.Literal["b"]
        kind: t.Literal["c"]

    with pytest.raises(TypeError, match=r"B and .*C cannot be told apart"):
        read("{}", A, B, C)


def test_a_refused_type_leaves_the_others_as_they_were():
    union = Types()
    union.add(Move)
    with pytest.raises(TypeError):
        union.add(Say | Bare)
    assert union.read('{"type": "move", "x": 1}').value == Move(1)
    assert str(union.read('{"type": "say"}').fault) == '$.type: expected "move", got "say"'


@pytest.mark.parametrize("type", [object(), 1, "Move"])
def test_what_is_no_type_is_refused(sockets, type):
    with pytest.raises(TypeError, match="on_json takes a type, or filters by name"):
        sockets.on_json(type)


class Anything:
    pass


def test_a_class_that_cannot_be_read_is_refused(sockets):
    with pytest.raises(TypeError, match=r"^on_json cannot read Anything\. It takes a dataclass"):
        sockets.on_json(Anything)(print)


def test_a_union_of_msgspec_that_cannot_be_is_refused(sockets):
    with pytest.raises(TypeError, match=r"^on_json cannot read .*: Type unions may not contain"):
        sockets.on_json(list[int] | tuple[int])(lambda message: None)


def test_a_field_that_cannot_be_read_is_our_mistake(app, sockets, serve, log):
    @dataclass
    class Holder:
        inner: Anything

    @sockets.on_json(Holder)
    def handler(holder): ...

    client = serve(app).connect()
    client.send('{"inner": {}}')
    assert client.recv_close() == (1011, "")
    assert str(the_error(log)) == ("A field is Anything, which msgspec cannot read from JSON.")


def test_a_type_and_filters_together_are_refused(sockets):
    with pytest.raises(TypeError, match="takes a type or filters, not both"):
        sockets.on_json(Move, room="red")


def test_names_are_checked_as_for_other_handlers(sockets):
    with pytest.raises(TypeError, match="wants 'txet', which nothing can fill"):

        @sockets.on_json(Move)
        def handler(move, txet): ...


def test_without_msgspec_a_sentence_says_what_to_do():
    code = """
import sys
sys.modules["msgspec"] = None
from flask import Flask
from flask_websockets import WebSockets
sockets = WebSockets(Flask("x"))
try:
    sockets.on_json(int)
except ImportError as error:
    print(error)
"""
    assert output(code) == (
        "Types in on_json() and replies that are typed need msgspec. "
        "Install it with: pip install 'Flask-WebSockets[typed]'\n"
    )


def test_msgspec_is_imported_only_where_it_is_used():
    code = """
import sys
from flask import Flask
from flask_websockets import WebSockets
WebSockets(Flask("x")).on_json(type="move")(print)
print({"msgspec", "pydantic"} & set(sys.modules))
"""
    assert output(code) == "set()\n"


# Faults


def check(types, faults):
    """Compare what is wrong with messages; in one test, as there are many."""
    found = [(message, read(message, *types)) for message, _ in faults]
    assert found == faults


def test_faults_that_msgspec_finds():
    check(
        [Order],
        [
            (
                '{"items": [{"price": 1}, {"price": 2}, {"price": "a"}]}',
                "$.items[2].price: expected float, got str",
            ),
            ('{"items": [{}]}', "$.items[0].price: expected float, got nothing"),
            ('{"items": {}}', "$.items: expected array, got object"),
            ("[]", "$: expected object, got array"),
            ("null", "$: expected object, got null"),
            ('{"count": 1.5}', "$.count: expected int, got float"),
            ('{"count": -1}', "$.count: expected int >= 0, got -1"),
            ('{"count": 1e400}', "$[...]: expected a number that is in range, got another"),
            ('{"count": 13}', "$: thirteen brings bad luck"),
            ('{"name": "abcd"}', '$.name: expected str of length <= 3, got "abcd"'),
            ('{"name": "b"}', "$.name: expected str matching regex '^a', got \"b\""),
            ('{"colour": "blue"}', '$.colour: expected "red", got "blue"'),
            ('{"size": "é"}', '$.size: expected "m" or "s", got "é"'),
            ('{"size": "%s"}' % ("x" * 50), '$.size: expected "m" or "s", got str'),
            ('{"size": 1}', "$.size: expected str, got int"),
            ('{"day": "today"}', '$.day: expected RFC3339 encoded date, got "today"'),
            ('{"key": "1"}', '$.key: expected UUID, got "1"'),
            ('{"amounts": {"a": "b"}}', "$.amounts[...]: expected int, got str"),
            ('{"places": {"a": 1}}', "$.places: expected int as key, got str"),
            ('{"pair": [1]}', "$.pair: expected array of length 2, got array"),
            ('{"either": []}', "$.either: expected int | str | null, got array"),
            ('{"fives": 3}', "$.fives: expected int that's a multiple of 5, got 3"),
            ('{"other": 3}', "$.other: expected no such field, got one"),
            (
                '{"nested": [{"by": {"a": {}}}]}',
                '$.nested[0].by[...].way: expected "down" or "up" | int | null, got nothing',
            ),
            (
                '{"nested": [{"by": {"a": {"way": "left"}}}]}',
                '$.nested[0].by[...].way: expected "down" or "up" | int | null, got another',
            ),
            (
                '{"nested": [{"by": {}, "pairs": [[1, "x"]]}]}',
                '$.nested[0].pairs[0][1]: expected "y", got "x"',
            ),
            ('{"count": 1, "count": true}', "$.count: expected int, got bool"),
        ],
    )


def test_faults_that_pydantic_finds():
    check(
        [ModelOrder],
        [
            (
                '{"items": [{"price": 1}, {"price": 2}, {"price": "a"}]}',
                "$.items[2].price: expected float, got str",
            ),
            ('{"items": [{}]}', "$.items[0].price: expected a value, got nothing"),
            ('{"items": {}}', "$.items: expected array, got object"),
            ('{"items": [1]}', "$.items[0]: expected object, got int"),
            ("[]", "$: expected object, got array"),
            ("null", "$: expected object, got null"),
            ('{"count": 1.5}', "$.count: expected int, got float"),
            ('{"count": "a"}', "$.count: expected int, got str"),
            ('{"count": null}', "$.count: expected int, got null"),
            ('{"count": -1}', "$.count: expected greater than or equal to 0, got -1"),
            ('{"count": 13}', "$.count: thirteen brings bad luck"),
            ('{"count": 14}', "$.count: fourteen neither"),
            (
                '{"name": "abcd"}',
                '$.name: expected String that must have at most 3 characters, got "abcd"',
            ),
            ('{"colour": "blue"}', "$.colour: expected 'red', got \"blue\""),
            ('{"size": "l"}', "$.size: expected 's' or 'm', got \"l\""),
            ('{"day": "today"}', '$.day: expected date or datetime, got "today"'),
            ('{"on": "x"}', "$.on: expected bool, got str"),
            ('{"amounts": {"a": "b"}}', "$.amounts.a: expected int, got str"),
            ('{"pair": [1]}', "$.pair[1]: expected a value, got nothing"),
            ('{"either": "a"}', "$.either: expected int, got str"),
            ('{"other": 3}', "$.other: expected no such field, got one"),
        ],
    )


@pytest.mark.parametrize("type", [Order, ModelOrder, Move | Say, Jump | Sleep])
def test_text_that_is_no_json(type):
    faults = [
        ("", "it ends too early"),
        ('{"a": ', "it ends too early"),
        ("hello", "invalid character at byte 0"),
        ('{"a" 1}', "expected ':' at byte 5"),
        ("{} x", "trailing characters at byte 4"),
    ]
    check([type], [(text, f"$: expected JSON, got text: {fault}") for text, fault in faults])


@pytest.mark.parametrize("type", [Order, ModelOrder, Jump | Sleep])
def test_json_that_is_too_deep(type):
    assert read('{"items": ' + "[" * 100_000, type) == "$: expected JSON, got too many levels"


def test_numbers_beyond_all_range():
    huge = "1" * 5000  # more digits than Python converts
    # Not a word on which field: such a message cannot be looked into.
    fault = "$[...]: expected a number that is in range, got another"
    for types in ([Order], [ModelOrder], [Jump, Sleep], [Move, Say]):
        check(types, [(f'{{"count": {huge}}}', fault), (f'{{"type": {huge}}}', fault)])


def test_what_the_client_sends_is_not_taken_for_our_words():
    many = " - at `$.x` - at `" * 50_000
    assert read(f'{{"{many}": 1}}', Order).endswith(": expected no such field, got one")
    assert read(f'{{"name": "a{many}"}}', Order) == "$.name: expected str of length <= 3, got str"


def test_pydantic_is_not_asked_for_all_of_many_faults():
    class Numbers(pydantic.BaseModel):
        numbers: list[int]

    numbers = ",".join(['"a"'] * 1001)
    assert read(f'{{"numbers": [{numbers}]}}', Numbers) == (
        "$: expected a message that fits, got 1001 faults"
    )


def test_faults_of_tags():
    faults = [
        ((Move,), '{"type": "jump"}', '$.type: expected "move", got "jump"'),
        ((Move, Say), '{"type": "jump"}', '$.type: expected "move" or "say", got "jump"'),
        ((Move, Say), '{"type": 1}', '$.type: expected "move" or "say", got 1'),
        ((Move, Say), '{"type": ["move"]}', '$.type: expected "move" or "say", got array'),
        ((Move, Say), '{"x": 1}', '$.type: expected "move" or "say", got nothing'),
        ((Move, Say), "[1]", "$: expected object, got array"),
        ((Move, Say), '{"type": "move", "x": "a"}', "$.x: expected int, got str"),
        ((Jump,), '{"type": "run"}', '$.type: expected "jump", got "run"'),
        ((Jump,), '{"height": 1}', '$.type: expected "jump", got nothing'),
        ((Buy,), '{"price": "a"}', "$.price: expected float, got str"),
        ((Cat,), '{"type": "dog"}', '$.type: expected "cat" or "kitten", got "dog"'),
        ((Cat, Jump), '{"type": "dog"}', '$.type: expected "cat" or "kitten" or "jump", got "dog"'),
        ((Cat, Jump), '{"type": {}}', '$.type: expected "cat" or "kitten" or "jump", got object'),
        ((Cat, Jump), "{}", '$.type: expected "cat" or "kitten" or "jump", got nothing'),
        ((Cat, Jump), "5", "$: expected object, got int"),
        ((Cat, Jump), '{"type": "jump"}', "$.height: expected float, got nothing"),
        ((PointArray, LineArray), '["dot"]', '$[0]: expected "point" or "line", got "dot"'),
        ((PointArray, LineArray), "[]", '$[0]: expected "point" or "line", got nothing'),
        ((PointArray, LineArray), "{}", "$: expected array, got object"),
        ((PointArray, LineArray), '["point", "a"]', "$[1]: expected int, got str"),
    ]
    found = [(types, message, read(message, *types)) for types, message, _ in faults]
    assert found == faults


def test_the_error_has_its_parts():
    error = InvalidMessage("$.x", "expected int, got str")
    assert isinstance(error, WebSocketError)
    assert (error.path, error.description) == ("$.x", "expected int, got str")
    assert str(error) == "$.x: expected int, got str"


# On a socket


def test_each_type_has_its_handlers(app, serve):
    sockets = WebSockets(app, path="/<room>")

    @sockets.on_json(Move)
    def move(move, room):
        return f"{room}: {move.x}"

    @sockets.on_json(Say)
    def say(say):
        return say.text

    @sockets.on_json(Move | Say)
    def both(either):
        return type(either).__name__

    client = serve(app).connect("/red")
    assert replies(client, '{"type": "say", "text": "a"}', '{"type": "move", "x": 1}') == [
        *("a", "Say"),
        *("red: 1", "Move"),
    ]


def test_decorators_return_the_function(sockets):
    def function(message): ...

    assert sockets.on_json(Move)(function) is function


def test_typed_handlers_stand_between_patterns_and_the_rest(app, sockets, serve):
    @sockets.on_message
    def catch_all(message):
        return "catch-all"

    @sockets.on_json(Move)
    def typed(move):
        return "typed"

    @sockets.on_json
    def any_json(data):
        return "any JSON"

    @sockets.on_json(x=1)
    def filtered(data):
        return "filter"

    @sockets.on_message("{")
    def pattern(message):
        return "pattern"

    assert replies(serve(app).connect(), '{"type": "move", "x": 1}', b"\x00") == [
        *("filter", "pattern", "typed", "catch-all", "any JSON"),
        "catch-all",
    ]


def test_match_one_stops_at_the_first(app, serve):
    sockets = WebSockets(app, match_one=True)

    @sockets.on_json
    def any_json(data):
        return "any JSON"

    @sockets.on_json(Move)
    def typed(move):
        return "typed"

    @sockets.on_json(x=1)
    def filtered(data):
        return "filter"

    client = serve(app).connect()
    assert replies(client, '{"type": "move", "x": 1}', '{"type": "move", "x": 2}', "[]") == [
        "filter",
        "typed",
        "any JSON",
    ]


def test_a_fault_is_answered_and_the_socket_stays_open(app, sockets, serve, log):
    @sockets.on_json(Order)
    def order(order):
        return {"items": len(order.items)}

    assert replies(
        serve(app).connect(), '{"items": [{"price": "a"}], "id": 7}', "hello", "{}", b"{}"
    ) == [
        '{"error": {"description": "expected float, got str", "path": "$.items[0].price"}, '
        '"id": 7}',
        '{"error": {"description": "expected JSON, got text: invalid character at byte 0", '
        '"path": "$"}}',
        '{"items":0}',
    ]  # fmt: skip
    assert log == []


def test_an_error_handler_answers_for_faults(app, sockets, serve, log):
    @sockets.on_json(Move)
    def move(move): ...

    @sockets.errorhandler(WebSocketError)
    def wrong(error):
        return {"path": error.path, "text": str(error)}

    client = serve(app).connect()
    assert replies(client, '{"type": "move", "x": null, "id": "a"}') == [
        '{"id": "a", "path": "$.x", "text": "$.x: expected int, got null"}'
    ]
    assert log == []


def test_a_handler_may_raise_it(app, sockets, serve, log):
    @sockets.on_json
    def handler(data):
        raise InvalidMessage("$.x", "expected a free place, got a taken one")

    assert replies(serve(app).connect(), '{"id": 1}') == [
        '{"error": {"description": "expected a free place, got a taken one", "path": "$.x"}, '
        '"id": 1}'
    ]
    assert log == []


def test_what_a_filter_or_pattern_hears_is_no_fault(app, sockets, serve):
    @sockets.on_json(Plain)
    def plain(plain):
        return "plain"

    @sockets.on_json(type="ping")
    def ping(data):
        return "pong"

    @sockets.on_message("HELLO")
    def hello():
        return "hello"

    assert replies(serve(app).connect(), '{"type": "ping"}', "HELLO", '{"x": 1}') == [
        "pong",
        "hello",
        "plain",
    ]


def test_what_no_type_is_meant_by_goes_on_to_the_rest(app, sockets, serve):
    @sockets.on_json(Move)
    def move(move): ...

    @sockets.on_message
    def rest(message):
        return "rest"

    assert replies(
        serve(app).connect(), "HELLO", '{"type": "jump"}', "[]", '{"type": "move", "x": "a"}'
    ) == [
        *("rest", "rest", "rest"),
        # Who hears everything does not hide that a known type does not fit.
        '{"error": {"description": "expected int, got str", "path": "$.x"}}',
    ]


def test_any_json_is_enough_for_an_unknown_tag(app, sockets, serve):
    @sockets.on_json(Move)
    def move(move): ...

    @sockets.on_json
    def rest(data):
        return "rest"

    assert replies(serve(app).connect(), '{"type": "jump"}', "HELLO") == [
        "rest",
        '{"error": {"description": "expected JSON, got text: invalid character at byte 0", '
        '"path": "$"}}',
    ]


def test_a_message_is_decoded_once(app, sockets, serve):
    made = []

    class Counted(Struct):
        x: int

        def __post_init__(self):
            made.append(self.x)

    @sockets.on_json(Counted)
    def first(message):
        return "first"

    @sockets.on_json(Counted)
    def second(message):
        return "second"

    assert replies(serve(app).connect(), '{"x": 1}') == ["first", "second"]
    assert made == [1]


def test_another_error_of_reading_is_ours(app, sockets, serve, log):
    class Broken(pydantic.BaseModel):
        x: int

        @pydantic.field_validator("x")
        @classmethod
        def judge(cls, x):
            raise KeyError("our own mistake")

    @sockets.on_json(Broken)
    def handler(message): ...

    client = serve(app).connect()
    client.send('{"x": 1}')
    assert client.recv_close() == (1011, "")
    assert type(the_error(log)) is KeyError


# Replies


def test_replies_of_typed_handlers(app, sockets, serve):
    expected = [
        (Move(1), '{"type":"move","x":1,"y":0}'),
        (Renamed(1), '{"kind":7,"theNumber":1}'),
        (Bare(1), '{"x":1}'),
        ({"z": 1, "a": None}, '{"z":1,"a":null}'),
        (Buy(price=1), '{"type":"buy","price":1.0}'),
        (Sell(type="sell", price=1), '{"kind":"sell","price":1.0}'),
        (Give("give", "é"), '{"type":"give","to":"é"}'),
        (
            [Move(1), Bare(2), Buy(price=3)],
            '[{"type":"move","x":1,"y":0},{"x":2},{"type":"buy","price":3.0}]',
        ),
        (
            {"at": date(2030, 1, 31), "key": uuid.UUID(UUID)},
            f'{{"at":"2030-01-31","key":"{UUID}"}}',
        ),
        ([], "[]"),
        ({}, "{}"),
        (PointArray(1), '["point",1]'),
        ("text", "text"),
        (b"binary", b"binary"),
    ]

    @sockets.on_json(Plain)
    def handler(message):
        return expected[message.x][0]

    messages = [f'{{"x": {number}}}' for number in range(len(expected))]
    assert replies(serve(app).connect(), *messages) == [sent for _, sent in expected]


def test_typed_replies_of_other_handlers(app, sockets, serve):
    @sockets.on_open
    def opened():
        return Say("welcome")

    @sockets.on_json
    def handler(data):
        yield Move(1)
        yield Buy(price=2)
        yield [Move(3)]
        raise ValueError

    @sockets.errorhandler(ValueError)
    def wrong(error):
        return Say("wrong")

    assert replies(serve(app).connect(), "1") == [
        '{"type":"say","text":"welcome"}',
        '{"type":"move","x":1,"y":0}',
        '{"type":"buy","price":2.0}',
        '[{"type":"move","x":3,"y":0}]',
        '{"type":"say","text":"wrong"}',
    ]


def test_a_struct_from_on_message_is_an_error(app, sockets, serve, log):
    @sockets.on_message
    def handler(message):
        return Move(1)

    client = serve(app).connect()
    client.send("x")
    assert client.recv_close() == (1011, "")
    assert "returned Move. Return str" in str(the_error(log))


def test_a_typed_reply_that_is_no_json_is_an_error(app, sockets, serve, log):
    @sockets.on_json(Plain)
    def handler(message):
        return {"x": object()}

    client = serve(app).connect()
    client.send('{"x": 1}')
    assert client.recv_close() == (1011, "")
    assert str(the_error(log)) == (
        f"{handler.__qualname__}() returned what is no JSON: object cannot be encoded"
    )


def test_after_message_sees_the_reply_as_it_was_returned(app, sockets, serve):
    seen = []

    @sockets.on_json(Plain)
    def handler(message):
        return message

    @sockets.after_message
    def after(reply):
        seen.append(reply)
        return reply

    assert replies(serve(app).connect(), '{"x": 1}') == ['{"x":1}']
    assert seen == [Plain(1)]


# The id


def test_the_id_of_a_typed_reply():
    texts = [
        ({"a": 1}, '{"id": 7}', '{"id":7,"a":1}'),
        ({}, '{"id": 7}', '{"id":7}'),
        ({"a": 1}, '{"id": "x\\"y"}', '{"id":"x\\"y","a":1}'),
        ({"a": 1}, '{"id": 1.50}', '{"id":1.50,"a":1}'),
        (
            {"a": 1},
            '{"id": 123456789012345678901234567890}',
            '{"id":123456789012345678901234567890,"a":1}',
        ),
        ({"a": 1}, '{"id": {"b": [1]}}', '{"id":{"b": [1]},"a":1}'),
        ({"a": 1}, '{"id": null}', '{"a":1}'),
        ({"a": 1}, '{"b": {"id": 7}}', '{"a":1}'),
        ({"a": 1}, '["id"]', '{"a":1}'),
        ({"a": 1}, '"id"', '{"a":1}'),
        ({"a": 1}, '{"id": ', '{"a":1}'),
        ({"a": 1}, b'{"id": 7}', '{"a":1}'),
        ({"a": 1}, None, '{"a":1}'),
        ({"id": 8}, '{"id": 7}', '{"id":8}'),
        ({"b": {"id": 8}}, '{"id": 7}', '{"id":7,"b":{"id":8}}'),
        ([1], '{"id": 7}', "[1]"),
        (Bare(1), '{"id": 7}', '{"id":7,"x":1}'),
        (Buy(price=1), '{"id": 7}', '{"id":7,"type":"buy","price":1.0}'),
    ]
    found = [(reply, message, encode(reply, message)) for reply, message, _ in texts]
    assert found == texts


@dataclass
class WithID:
    id: int


def test_the_id_of_a_reply_of_on_json(app, sockets, serve):
    expected = [
        ({"a": 1}, '{"a": 1, "id": 7}'),
        ({"id": 8}, '{"id": 8}'),
        ({"id": None}, '{"id": null}'),
        (Bare(1), '{"id": 7, "x": 1}'),
        (WithID(8), '{"id": 8}'),
        ([{"a": 1}], '[{"a": 1}]'),
        ('{"a": 1}', '{"a": 1}'),
        (Plain(1), '{"id":7,"x":1}'),
    ]

    @sockets.on_json
    def handler(data):
        return expected[data["x"]][0]

    messages = [f'{{"x": {number}, "id": 7}}' for number in range(len(expected))]
    assert replies(serve(app).connect(), *messages) == [sent for _, sent in expected]


def test_a_response_is_sent_as_it_is(app, sockets, serve):
    @sockets.on_json
    def handler(data):
        return jsonify(a=1)

    assert replies(serve(app).connect(), '{"id": 7}') == ['{"a":1}\n']


def test_the_replies_of_hooks_and_generators_have_it_too(app, sockets, serve):
    @sockets.before_message
    def before(message):
        if "stop" in message:
            return {"stopped": True}

    @sockets.on_json(type="count")
    def count(data):
        yield {"n": 1}
        yield {"n": 2}

    @sockets.on_json(type="fail")
    def fail(data):
        raise ValueError

    @sockets.errorhandler(ValueError)
    def wrong(error):
        return {"error": "wrong"}

    assert replies(
        serve(app).connect(),
        '{"type": "count", "id": 1}',
        '{"type": "fail", "id": 2}',
        '{"type": "stop", "id": 3}',
    ) == [
        '{"id": 1, "n": 1}',
        '{"id": 1, "n": 2}',
        '{"error": "wrong", "id": 2}',
        '{"id": 3, "stopped": true}',
    ]


def test_a_close_in_a_handler_has_no_id(app, sockets, serve):
    from flask_websockets import ws

    @sockets.on_json
    def handler(data):
        ws.close()

    @sockets.before_close
    def goodbye():
        return {"bye": True}

    client = serve(app).connect()
    client.send('{"id": 1}')
    assert client.recv() == '{"bye": true}'
    assert client.recv_close() == (1000, "")


# Speed


@pytest.mark.parametrize("case", [case for case in typed_messages.CASES if "model" not in case])
def test_a_typed_round_trip_costs_less_than_json_alone(case):
    typed, alone = typed_messages.measure(case, rounds=10)
    assert typed < alone

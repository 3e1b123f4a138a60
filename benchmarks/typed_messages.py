"""What a typed message costs beside ``json.loads`` and ``json.dumps`` alone.

One message of 1 KiB is read as its type, handled, and answered with the same: decode, handler
and encode, as a connection has them, without the connection. The figures are the ratios to
``json.dumps(json.loads(message))``: below 1, types cost less than JSON alone.

    python benchmarks/typed_messages.py
"""

from __future__ import annotations

import json
import sys
import time
import timeit
import typing as t
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pydantic
from flask import Flask

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flask_websockets import compiled
from flask_websockets.handlers import Incoming
from flask_websockets.typed import encode
from flask_websockets.typed import TypedHandler
from flask_websockets.typed import Types

SIZE = 1024
ROUNDS = 100
CALLS = 100


class Point(msgspec.Struct):
    x: float
    y: float
    label: str


class Shape(msgspec.Struct, tag="path"):
    """A message of what messages have: text, numbers, and a list of objects."""

    name: str
    points: list[Point]
    closed: bool = False


class Say(msgspec.Struct, tag="say"):
    text: str


@dataclass
class ShapeData:
    type: t.Literal["path"]
    name: str
    points: list[Point]
    closed: bool = False


class PointModel(pydantic.BaseModel):
    x: float
    y: float
    label: str


class SayDict(t.TypedDict):
    type: t.Literal["say"]
    text: str


def message(**more: t.Any) -> str:
    """JSON text of 1 KiB, as ``JSON.stringify`` writes it."""
    path: dict[str, t.Any] = {**more, "type": "path", "name": "", "points": [], "closed": True}
    while True:
        number = len(path["points"])
        path["points"].append({"x": number + 0.5, "y": 10.25 * number, "label": f"point {number}"})
        text = json.dumps(path, separators=(",", ":"))
        if len(text) > SIZE - 60:
            path["name"] = "n" * (SIZE - len(text))
            return json.dumps(path, separators=(",", ":"))


def round_trip(*types: t.Any) -> t.Callable[[str], object]:
    """What becomes of a message on an endpoint with these types."""
    app, union = Flask("benchmark"), Types()
    handlers = [TypedHandler(lambda message: message, type, union) for type in types]
    for handler in handlers:
        handler.join()
    first = handlers[0]

    def answer(text: str) -> str:
        incoming = Incoming(text, app)
        return encode(first.hear(incoming, {}), text)

    return answer


def json_alone(text: str) -> str:
    return json.dumps(json.loads(text))


class ShapeModel(pydantic.BaseModel):
    type: t.Literal["path"]
    name: str
    points: list[PointModel]
    closed: bool = False


CASES: dict[str, tuple[str, t.Callable[[str], object]]] = {
    "one Struct": (message(), round_trip(Shape)),
    "Structs with tags": (message(), round_trip(Shape, Say)),
    "a dataclass and a TypedDict": (message(), round_trip(ShapeData, SayDict)),
    "Structs with tags, and an id": (message(id=7), round_trip(Shape, Say)),
    "a model of pydantic": (message(), round_trip(ShapeModel)),
}


def measure(case: str, rounds: int = ROUNDS) -> tuple[float, float]:
    """Seconds of a typed round trip, and of JSON alone: the best of rounds that take turns."""
    text, typed = CASES[case]
    assert json.loads(t.cast(str, typed(text))) == json.loads(text)
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((_time(typed, text), _time(json_alone, text)))
    return min(one for one, _ in times), min(other for _, other in times)


def _time(function: t.Callable[[str], object], text: str) -> float:
    # Of the processor: what else the machine does does not count.
    timer = timeit.Timer(lambda: function(text), timer=time.process_time)
    return timer.timeit(CALLS) / CALLS


def main() -> None:
    print(f"{'compiled' if compiled else 'pure Python'}, {len(message())} bytes, microseconds")
    print(f"{'':30}{'typed':>8}{'JSON':>8}{'ratio':>8}")
    for case in CASES:
        typed, alone = measure(case)
        print(f"{case:30}{typed * 1e6:8.1f}{alone * 1e6:8.1f}{typed / alone:8.2f}")


if __name__ == "__main__":
    main()

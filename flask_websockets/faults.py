"""What is wrong with a message, in one form: ``$.items[2].price: expected float, got str``.

Knows what msgspec and pydantic say of a fault. Only asked where there is one.
"""

from __future__ import annotations

import json
import re
import typing as t

import msgspec

from .exceptions import InvalidMessage

#: In the place of a value that is not there.
NOTHING: t.Final = object()

_UNKNOWN: t.Final = "Object contains unknown field `"

#: Of a value as it was sent, so much is repeated.
_SHOWN: t.Final = 40

#: pydantic collects all faults, and tells all or none. More than so many are told as none:
#: a MiB of them would take a second and hundreds of MiB.
_FAULTS: t.Final = 1000

_KINDS = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
    dict: "object",
}

#: Of msgspec's types those that are called otherwise in JSON.
_NAMES = {
    "none": "null",
    "any": "a value",
    "bytes": "str",
    "list": "array",
    "set": "array",
    "frozenset": "array",
    "tuple": "array",
    "vartuple": "array",
    "namedtuple": "array",
    "dict": "object",
    "typeddict": "object",
    "dataclass": "object",
    "struct": "object",
}

_PARTS = re.compile(r"\.([^.[]+)|\[([^]]*)\]")

#: What pydantic's kinds of errors begin with, and the kind that was expected.
_EXPECTED = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "string": "str",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "model": "object",
    "dataclass": "object",
}


def load(message: str) -> t.Any:
    """What *message* says, or the fault if it is no JSON."""
    try:
        return msgspec.json.decode(message)
    except msgspec.ValidationError as error:
        # All that can be: a number, where anything may be.
        return _explain_msgspec(str(error), NOTHING, t.Any)
    except RecursionError:
        return wrong("$", "JSON", "too many levels")
    except ValueError as error:  # DecodeError, or half of a surrogate pair
        found = re.match(r"JSON is malformed: (.*) \(byte (\d+)\)", str(error))
        where = f"{found[1]} at byte {found[2]}" if found else "it ends too early"
        return wrong("$", "JSON", f"text: {where}")


def explain(error: Exception, data: t.Any, type: t.Any) -> InvalidMessage:
    """*error*, of msgspec or pydantic, in our form.

    :param data: what the message says.
    :param type: what it should be.
    """
    if hasattr(error, "error_count"):
        count = error.error_count()
        if count > _FAULTS:
            return wrong("$", "a message that fits", f"{count} faults")
        return _explain_pydantic(t.cast(t.Any, error).errors(include_url=False)[0], data)
    return _explain_msgspec(str(error), data, type)


def wrong(path: str, expected: str, got: str) -> InvalidMessage:
    """The fault that something is not as *expected*."""
    return InvalidMessage(path, f"expected {expected}, got {got}")


def kind(value: t.Any) -> str:
    """The name of a JSON type."""
    return _KINDS.get(type(value), "nothing")


def show(value: t.Any) -> str:
    """A value as it was sent, if it is short."""
    if value is NOTHING or isinstance(value, (dict, list)):
        return kind(value)
    if isinstance(value, str) and len(value) > _SHOWN:
        return "str"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _SHOWN else kind(value)


def one_of(values: t.Iterable[t.Any]) -> str:
    """What is expected where there are only so many."""
    return " or ".join(map(show, values))


# msgspec


def _explain_msgspec(said: str, data: t.Any, type: t.Any) -> InvalidMessage:
    what, path, is_key = _split(said)
    if found := re.fullmatch(r"Object missing required field `(.*)`", what):
        path = f"{path}.{found[1]}"
        return wrong(path, _expected(type, path), "nothing")
    if what.startswith(_UNKNOWN):
        return wrong(f"{path}.{what[len(_UNKNOWN) :].removesuffix('`')}", "no such field", "one")
    if found := re.fullmatch(r"Expected `(.*)`, got `(.*)`", what):
        return wrong(path, f"{found[1]} as key" if is_key else found[1], found[2])
    value = _find(data, path)
    got = "another" if value is NOTHING else show(value)
    if found := re.fullmatch(r"Expected (.*?)(?:, got .*)?", what, re.DOTALL):
        return wrong(path, found[1].replace("`", ""), got)
    if what.startswith(("Invalid enum value", "Invalid value")):
        return wrong(path, _expected(type, path), got)
    if what in ("Number out of range", "Integer value out of range"):
        return wrong(path, "a number that is in range", got)
    if found := re.fullmatch(r"Invalid (.*)", what):
        return wrong(path, found[1], got)
    return InvalidMessage(path, what)  # what a __post_init__ says


def _split(said: str) -> tuple[str, str, bool]:
    """What msgspec says, of which path, and whether of a key there."""
    # No pattern for it: what the peer sent may stand before, and may look like a path.
    what, mark, path = said.rpartition(" - at `")
    if not mark or not path.endswith("`"):
        return said, "$", False
    path = path[:-1]
    return what, path.removeprefix("key` in `"), path.startswith("key`")


def _find(data: t.Any, path: str) -> t.Any:
    """The value at *path*, or NOTHING where that cannot be told."""
    for name, index in _PARTS.findall(path):
        if name and isinstance(data, dict) and name in data:
            data = data[name]
        elif index.isdigit() and isinstance(data, list) and int(index) < len(data):
            data = data[int(index)]
        else:
            return NOTHING
    return data


def _expected(type: t.Any, path: str) -> str:
    """What *type* has at *path*, in msgspec's words; "a value" where that cannot be told."""
    infos = [msgspec.inspect.type_info(type)]
    for name, index in _PARTS.findall(path):
        infos = [below for info in _members(infos) for below in _below(info, name, index)]
    return " | ".join(dict.fromkeys(_name(info) for info in _members(infos))) or "a value"


def _members(infos: t.Iterable[t.Any]) -> t.Iterator[t.Any]:
    for info in infos:
        if isinstance(info, msgspec.inspect.Metadata):
            yield from _members([info.type])
        elif isinstance(info, msgspec.inspect.UnionType):
            yield from _members(info.types)
        else:
            yield info


def _below(info: t.Any, name: str, index: str) -> list[t.Any]:
    if name:
        return [one.type for one in getattr(info, "fields", ()) if one.encode_name == name]
    if index.isdigit() and hasattr(info, "item_types"):
        return list(info.item_types[int(index) :][:1])
    inner = getattr(info, "item_type", None) or getattr(info, "value_type", None)
    return [] if inner is None else [inner]


def _name(info: t.Any) -> str:
    if isinstance(info, msgspec.inspect.LiteralType):
        return one_of(info.values)
    if isinstance(info, msgspec.inspect.EnumType):
        return one_of(member.value for member in info.cls)
    name = type(info).__name__.removesuffix("Type").lower()
    return _NAMES.get(name, name)


# pydantic


def _explain_pydantic(error: dict[str, t.Any], data: t.Any) -> InvalidMessage:
    code, said, value = error["type"], error["msg"], error["input"]
    path = _path(error["loc"], data, code == "missing")
    if code == "json_invalid":
        return wrong("$", "JSON", f"text: {error['ctx']['error']}")
    if code == "missing":
        return wrong(path, "a value", "nothing")
    if code == "extra_forbidden":
        return wrong(path, "no such field", "one")
    if code in ("value_error", "assertion_error"):
        return InvalidMessage(path, str(error["ctx"]["error"]))
    start, _, end = code.partition("_")
    if end.endswith(("type", "parsing", "from_float")) and start in _EXPECTED:
        return wrong(path, _EXPECTED[start], kind(value))
    expected = re.sub(r"^Input should be (a valid )?", "", said)
    expected = re.sub(r" should (have|match) ", r" that must \1 ", expected)
    if end.endswith("parsing"):
        expected = expected.partition(",")[0]
    return wrong(path, expected, show(value))


def _path(parts: t.Sequence[str | int], data: t.Any, is_missing: bool) -> str:
    """Where in *data* that is: pydantic's places name members of unions as well."""
    path = "$"
    for number, part in enumerate(parts, 1):
        if isinstance(data, list) and isinstance(part, int):
            path += f"[{part}]"
            data = data[part] if part < len(data) else None
        elif isinstance(data, dict) and (part in data or (is_missing and number == len(parts))):
            path += f".{part}"
            data = data.get(part)
    return path

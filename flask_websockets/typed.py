"""Messages that are read as types: which one a message is, and where it does not fit.

Needs msgspec, and is imported only where types are used. Knows no connection. What the
libraries say of a fault is in ``faults``.
"""

from __future__ import annotations

import types
import typing as t
from dataclasses import is_dataclass

try:
    import msgspec
except ImportError as error:
    raise ImportError(
        "Types in on_json() and replies that are typed need msgspec. "
        "Install it with: pip install 'Flask-WebSockets[typed]'"
    ) from error

from . import faults
from .exceptions import InvalidMessage
from .handlers import Incoming
from .handlers import MessageHandler
from .handlers import UNHEARD
from .handlers import Values
from .rooms import Message

Tag = t.Union[str, int]


class Variant:
    """One type of an endpoint's messages, and what tells it from the others.

    :param type: a dataclass, TypedDict, Struct, model, or whatever msgspec decodes.
    :raises TypeError: if neither msgspec nor pydantic can read it.
    """

    def __init__(self, type: t.Any) -> None:
        self.type = type
        self.cls = t.get_origin(type) or type
        self.name: str = getattr(type, "__qualname__", None) or str(type)
        self.is_struct = _is_struct(self.cls)
        self.is_array = self.is_struct and self.cls.__struct_config__.array_like
        #: The fields that have a tag, and the tags that they may have.
        self.tags: dict[str, frozenset[Tag]] = _tags(self.cls)
        if _is_pydantic(self.cls):
            self.decode: t.Callable[[str], t.Any] = self.cls.__pydantic_validator__.validate_json
        else:
            self.decode = _decoder(type, self.name).decode

    def own_tag(self, data: t.Any) -> str | None:
        """The field by which *data* would say that it is another type."""
        if self.is_struct and (field := _tag_field(self.cls)) is not None:
            return field
        return next(
            (
                field
                for field, tags in self.tags.items()
                # One that may be left out, and one of several values, is a field like others.
                if len(tags) == 1 and isinstance(data, dict) and field in data
            ),
            None,
        )

    def fields_apart(self, other: Variant) -> set[str]:
        """The fields whose tags tell the two apart."""
        if self.is_array is not other.is_array:
            return set()
        return {
            field
            for field, tags in self.tags.items()
            if field in other.tags and not tags & other.tags[field]
        }


class Reading:
    """What the types of an endpoint make of one message.

    :param variant: the type that it is, or None.
    :param value: the message as that type.
    :param fault: why it is none.
    :param is_misfit: whether its type is known and it does not fit.
    """

    __slots__ = ("fault", "is_misfit", "value", "variant")

    def __init__(
        self,
        variant: Variant | None,
        value: t.Any = None,
        fault: InvalidMessage | None = None,
        is_misfit: bool = False,
    ) -> None:
        self.variant = variant
        self.value = value
        self.fault = fault
        self.is_misfit = is_misfit

    def raise_misfit(self) -> None:
        """Raise the fault, if who hears everything could not know better."""
        if self.is_misfit:
            self.raise_fault()

    def raise_fault(self) -> None:
        """Raise the fault, if there is one."""
        if self.fault is not None:
            raise self.fault


class Types:
    """The types of one endpoint: a union, of which a message is decoded once."""

    def __init__(self) -> None:
        self._variants: list[Variant] = []
        #: The fields by which all of them can be told apart.
        self._fields: list[str] = []
        # Made when the first message comes, once all types are known.
        self._read: t.Callable[[str], Reading] | None = None

    def add(self, type: t.Any) -> frozenset[Variant]:
        """Make *type*, which may be a union itself, part of the union.

        :return: its variants.
        :raises TypeError: if it cannot be read, or not be told from the others; nothing is
            added then.
        """
        variants, fields, found = list(self._variants), self._fields, set()
        for member in _members(type):
            variant = next((one for one in variants if one.type == member), None)
            if variant is None:
                variant = Variant(member)
                fields = _fields_apart(variants, variant, fields)
                variants.append(variant)
            found.add(variant)
        self._variants, self._fields, self._read = variants, fields, None
        return frozenset(found)

    def read(self, message: Message) -> Reading:
        """What *message* is: binary ones are nothing, and no fault either."""
        if not isinstance(message, str):
            return _NOTHING
        if self._read is None:
            self._read = self._reader()
        return self._read(message)

    def _reader(self) -> t.Callable[[str], Reading]:
        variants = self._variants
        if len(variants) == 1:
            return self._read_only(variants[0])
        field = self._fields[0]
        if all(one.is_struct and _tag_field(one.cls) == field for one in variants):
            return self._read_structs()
        return self._read_tagged(field)

    def _read_only(self, variant: Variant) -> t.Callable[[str], Reading]:
        decode = variant.decode

        def read(message: str) -> Reading:
            try:
                return Reading(variant, decode(message))
            except (ValueError, RecursionError) as error:
                return self._judge(message, error)

        return read

    def _read_structs(self) -> t.Callable[[str], Reading]:
        # msgspec reads the tag on its way.
        decode = _decoder(t.Union[tuple(one.type for one in self._variants)], "Union").decode
        variants = {one.cls: one for one in self._variants}

        def read(message: str) -> Reading:
            try:
                value = decode(message)
            except (ValueError, RecursionError) as error:
                return self._judge(message, error)
            return Reading(variants[type(value)], value)

        return read

    def _read_tagged(self, field: str) -> t.Callable[[str], Reading]:
        # First the tag alone: msgspec skips what is not asked for.
        head = msgspec.defstruct("Head", [("tag", t.Any, None)], rename={"tag": field})
        decode: t.Callable[[str], t.Any] = msgspec.json.Decoder(head).decode
        variants = {_key(tag): one for one in self._variants for tag in one.tags[field]}

        def find(message: str) -> Variant | None:
            tag = decode(message).tag
            # A list is no tag, and cannot be looked up.
            return variants.get(_key(tag)) if isinstance(tag, (str, int)) else None

        def read(message: str) -> Reading:
            try:
                variant = find(message)
                if variant is not None:
                    return Reading(variant, variant.decode(message))
            except (ValueError, RecursionError) as error:
                return self._judge(message, error)
            return self._judge(message, KeyError(field))

        return read

    # What is wrong with a message

    def _judge(self, message: str, error: Exception) -> Reading:
        """Say why *message* was not read: *error* is what its type said, or found no type."""
        data = faults.load(message)
        if isinstance(data, InvalidMessage):
            return Reading(None, fault=data)
        meant = self._meant(data)
        if isinstance(meant, InvalidMessage):
            return Reading(None, fault=meant)
        return Reading(None, fault=faults.explain(error, data, meant.type), is_misfit=True)

    def _meant(self, data: t.Any) -> Variant | InvalidMessage:
        """The type that the message names, or what is wrong with its tag."""
        first, *others = self._variants
        field = self._fields[0] if others else first.own_tag(data)
        if field is None:
            return first
        expected = "array" if first.is_array else "object"
        if faults.kind(data) != expected:
            return faults.wrong("$", expected, faults.kind(data))
        if first.is_array:
            path, got = "$[0]", data[0] if data else faults.NOTHING
        else:
            path, got = f"$.{field}", data.get(field, faults.NOTHING)
        tags = [(tag, one) for one in self._variants for tag in sorted(one.tags[field], key=str)]
        for tag, variant in tags:
            if _key(got) == _key(tag):
                return variant
        return faults.wrong(path, faults.one_of(tag for tag, _ in tags), faults.show(got))


class TypedHandler(MessageHandler):
    """Hears text that is JSON of its types.

    :param type: what ``on_json`` was given.
    :param union: those of the endpoint.
    """

    def __init__(self, function: t.Callable[..., t.Any], type: t.Any, union: Types) -> None:
        super().__init__(function)
        self.replies_json = self.is_typed = True
        self.is_catch_all = False
        self.prefix = ""
        #: What ``on_json`` was given.
        self.type = type
        self._union = union
        self._variants: frozenset[Variant] = frozenset()

    def join(self) -> None:
        """Let the types be part of the union.

        :raises TypeError: if they cannot be read, or not be told from the others.
        """
        self._variants = self._union.add(self.type)

    def describe(self) -> str:
        return f"on_json({getattr(self.type, '__qualname__', self.type)!s})"

    def hear(self, incoming: Incoming, values: Values) -> t.Any:
        reading = incoming.reading
        if reading is None:
            reading = incoming.reading = self._union.read(incoming.message)
        if reading.variant in self._variants:
            return self.call(reading.value, values)
        return UNHEARD


# Replies


class _Head(msgspec.Struct):
    #: As it is written: a number comes back to the last digit.
    id: msgspec.Raw = msgspec.Raw()


_read_head = msgspec.json.Decoder(_Head).decode


def encode(reply: t.Any, message: Message | None) -> str:
    """*reply* as JSON text, with the ``id`` of *message* unless it has one of its own.

    :param message: what it answers.
    :raises TypeError: if *reply* is no JSON.
    """
    if hasattr(type(reply), "__pydantic_serializer__"):
        text = _encode_pydantic(reply)
    else:
        text = _encode(reply).decode()
    if not isinstance(message, str) or '"id"' not in message or text[0] != "{":
        return text
    id = _id(message)
    if id is None or ('"id"' in text and _id(text) is not None):
        return text
    return f'{{"id":{id}}}' if text == "{}" else f'{{"id":{id},{text[1:]}'


def _id(text: str) -> str | None:
    try:
        id = bytes(_read_head(text).id).decode()
    except (ValueError, RecursionError):
        return None  # no object
    return None if id in ("", "null") else id


def _encode_pydantic(reply: t.Any) -> str:
    if hasattr(reply, "model_dump_json"):
        return t.cast(str, reply.model_dump_json())
    return t.cast(str, reply.__pydantic_serializer__.to_json(reply).decode())  # a dataclass


def _encode_other(value: t.Any) -> t.Any:
    if hasattr(type(value), "__pydantic_serializer__"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be encoded")


_encode = msgspec.json.Encoder(enc_hook=_encode_other).encode


# Types


def _decoder(type: t.Any, name: str) -> msgspec.json.Decoder[t.Any]:
    try:
        decoder = msgspec.json.Decoder(type, dec_hook=_decode_other)
        info = msgspec.inspect.type_info(type)
    except TypeError as error:
        raise TypeError(f"on_json cannot read {name}: {error}") from error
    if isinstance(info, msgspec.inspect.CustomType):
        raise TypeError(
            f"on_json cannot read {name}. It takes a dataclass, a TypedDict, a msgspec.Struct, "
            "a model of pydantic, or a union of these."
        )
    return decoder


def _decode_other(type: t.Any, value: t.Any) -> t.Any:
    # Not a ValueError, which would be the peer's fault.
    raise NotImplementedError(f"A field is {type.__name__}, which msgspec cannot read from JSON.")


def _members(type: t.Any) -> list[t.Any]:
    """The types of a union, if they are such that can be told apart; else *type* alone."""
    inner = type
    while hasattr(inner, "__value__") or t.get_origin(inner) is t.Annotated:
        inner = inner.__value__ if hasattr(inner, "__value__") else t.get_args(inner)[0]
    if t.get_origin(inner) not in (t.Union, types.UnionType):
        return [type]
    members = [one for member in t.get_args(inner) for one in _members(member)]
    return members if all(map(_is_object, members)) else [type]


def _is_object(type: t.Any) -> bool:
    cls = t.get_origin(type) or type
    return _is_struct(cls) or is_dataclass(cls) or _is_typed_dict(cls) or _is_pydantic(cls)


def _is_struct(cls: t.Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, msgspec.Struct)


def _is_typed_dict(cls: t.Any) -> bool:
    # Those of typing and of typing_extensions.
    return isinstance(cls, type) and issubclass(cls, dict) and hasattr(cls, "__total__")


def _is_pydantic(cls: t.Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__")


def _tag_field(cls: t.Any) -> str | None:
    field: str | None = cls.__struct_config__.tag_field
    return field


def _tags(cls: t.Any) -> dict[str, frozenset[Tag]]:
    """The fields of JSON whose values say which type it is: tags, and Literals."""
    if not _is_object(cls):
        return {}
    names, found = _json_names(cls), {}
    for name, hint in t.get_type_hints(cls).items():
        if t.get_origin(hint) is t.Literal and name in names:
            values = t.get_args(hint)
            if all(type(value) in (str, int) for value in values):
                found[names[name]] = frozenset(values)
    if _is_struct(cls) and (field := _tag_field(cls)) is not None:
        return {field: frozenset({cls.__struct_config__.tag}), **found}
    return found


def _json_names(cls: t.Any) -> dict[str, str]:
    """How the fields of a class are called in JSON."""
    if _is_struct(cls):
        if cls.__struct_config__.array_like:
            return {}
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if _is_pydantic(cls):
        fields = getattr(cls, "__pydantic_fields__", None) or cls.model_fields
        aliases = {name: field.validation_alias or name for name, field in fields.items()}
        return {name: alias for name, alias in aliases.items() if isinstance(alias, str)}
    return {name: name for name in t.get_type_hints(cls)}


def _fields_apart(known: t.Sequence[Variant], new: Variant, fields: t.Sequence[str]) -> list[str]:
    """Those of *fields* by which *new* can be told from all that are *known* as well.

    :raises TypeError: if there is none.
    """
    if not known:
        return list(new.tags)
    left = list(fields)
    for other in known:
        apart = new.fields_apart(other)
        left = [field for field in left if field in apart]
        if not left:
            raise TypeError(
                f"{other.name} and {new.name} cannot be told apart in JSON. Give each a tag of "
                f"its own: class {new.name}(msgspec.Struct, tag=True), or a field of the same "
                f"name in both, such as type: Literal[{new.name.rpartition('.')[2].lower()!r}]."
            )
    return left


def _key(tag: t.Any) -> tuple[type, t.Any]:
    """Of a tag: JSON's true is not its 1, as it is in Python."""
    return (type(tag), tag)


_NOTHING: t.Final = Reading(None)

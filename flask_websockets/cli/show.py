"""How commands show things: tables, messages, close codes. Writes nothing itself."""

from __future__ import annotations

import json
import re
import typing as t

import click

from ..protocol import CloseCode

#: What could move the cursor of a terminal or change its colours, without tab and newline.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(:?)|\b(true|false|null)\b|(-?\d[\d.eE+-]*)')

#: So many bytes of a binary message are shown in a terminal.
_MOST = 1024


def safe(text: str) -> str:
    """*text* of somebody else, for a terminal: control characters are written as escapes."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> str:
    """*rows* in columns, as ``flask routes`` shows them."""
    lines = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [head, *lines]) for column in range(len(head))]
    lines = [list(head), ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )


def message(data: str | bytes, pretty: bool) -> str:
    """A message for people, or as it came if it is not *pretty*."""
    if isinstance(data, bytes):
        return _binary(data, _MOST if pretty else len(data))
    return _text(data) if pretty else data


def closing(code: int, reason: str) -> str:
    """A close code in words."""
    try:
        name = " (" + CloseCode(code).name.lower().replace("_", " ") + ")"
    except ValueError:
        name = ""
    return f"Closed with {code}{name}" + (f": {safe(reason)}" if reason else ".")


def milliseconds(seconds: float) -> str:
    """A time that is short."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _binary(data: bytes, most: int) -> str:
    shown = data[:most].hex(" ")
    more = f" ... and {len(data) - most:,} more" if len(data) > most else ""
    return f"binary, {len(data):,} bytes: {shown}{more}".rstrip()


def _text(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return safe(text)
    if not isinstance(data, (dict, list)):
        return safe(text)
    return _TOKENS.sub(_colour, safe(json.dumps(data, indent=2, ensure_ascii=False)))


def _colour(match: re.Match[str]) -> str:
    string, colon, word, number = match.groups()
    if string is not None:
        return click.style(string, fg="blue" if colon else "green") + colon
    if word is not None:
        return click.style(word, fg="magenta")
    return click.style(number, fg="cyan")

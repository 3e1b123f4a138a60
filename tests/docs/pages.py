"""The pages of the documentation, and what their code blocks do when they run."""

from __future__ import annotations

import re
import sys
import textwrap
import types
import typing as t
from pathlib import Path

import websocket

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]

#: The apps and databases of the pages that a test has run.
databases: list[tuple[t.Any, t.Any]] = []

_DIRECTIVE = re.compile(r"\s*\.\. (?:code-block|code|sourcecode)::\s*(\S*)$")


class Block(t.NamedTuple):
    """A code block.

    :param language: what it says it is; ``::`` for a literal block.
    :param line: the number of its first line.
    :param classes: those that its directive gives it.
    :param caption: the name of the file that it is, or nothing.
    """

    language: str
    line: int
    classes: frozenset[str]
    caption: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is Python that runs with its page.

        Not what is of class ``old``: that is written for another library. Nor what is
        of class ``program``: that is a program of its own, which its test starts.
        """
        return self.language == "python" and not self.classes & {"old", "program"}


def blocks(page: Path) -> t.Iterator[Block]:
    """Each ``.. code-block::`` and each literal block of a page."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        directive = _DIRECTIVE.match(line)
        if directive is None and (not line.endswith("::") or line.lstrip().startswith("..")):
            continue
        options: dict[str, str] = {}
        while directive and number < len(lines) and lines[number].strip():
            option, _, value = lines[number].strip().removeprefix(":").partition(":")
            options[option] = value.strip()
            number += 1
        start = number
        while number < len(lines) and (
            not lines[number].strip() or _indent(lines[number]) > _indent(line)
        ):
            number += 1
        yield Block(
            directive.group(1) if directive else "::",
            start,
            frozenset(options.get("class", "").split()),
            options.get("caption", ""),
            textwrap.dedent("\n".join(lines[start:number])),
        )


def files(page: Path) -> dict[str, str]:
    """The blocks of a page that are files, by their captions."""
    return {block.caption: block.text.strip() + "\n" for block in blocks(page) if block.caption}


def compile_block(page: Path, block: Block) -> t.Any:
    """The code of a block, whose tracebacks point at the page."""
    return compile("\n" * block.line + block.text, str(page), "exec")


def run_page(page: Path, old: str = "", new: str = "") -> dict[str, t.Any]:
    """Run the ``python`` blocks of a page in order, in one namespace.

    :param old: what is to be replaced in them by *new*.
    """
    module = types.ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module  # where dataclasses look
    namespace = module.__dict__
    for block in blocks(page):
        if block.runs:
            text = block.text.replace(old, new) if old else block.text
            exec(compile_block(page, block._replace(text=text)), namespace)
    if "db" in namespace:
        databases.append((namespace["app"], namespace["db"]))
    return namespace


def talk(serve, page: str, path: str, *messages: t.Any) -> list[t.Any]:
    """Connect to the page's app, send all *messages*, and return what comes until a close."""
    client = serve(run_page(ROOT / page)["app"]).connect(path)
    for message in messages:
        client.send_binary(message) if isinstance(message, bytes) else client.send(message)
    client.send_close(1000)
    replies = []
    while True:
        opcode, data = client.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return replies
        replies.append(data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())

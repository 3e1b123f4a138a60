"""The pages of the documentation, and what their code blocks do when they run."""

from __future__ import annotations

import textwrap
import typing as t
from pathlib import Path

import websocket

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]

#: The apps and databases of the pages that a test has run.
databases: list[tuple[t.Any, t.Any]] = []


class Block(t.NamedTuple):
    """A code block: its language, the number of its first line, its classes, its text."""

    language: str
    line: int
    classes: frozenset[str]
    text: str


def blocks(page: Path) -> t.Iterator[Block]:
    """Each ``.. code-block::`` of a page."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        directive, _, language = line.strip().partition(":: ")
        if directive != ".. code-block":
            continue
        indent = len(line) - len(line.lstrip())
        start = number + 1
        classes: set[str] = set()
        while lines[start].strip():  # the directive's options
            option, _, value = lines[start].strip().removeprefix(":").partition(":")
            if option == "class":
                classes.update(value.split())
            start += 1
        end = start
        while end < len(lines) and (
            not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent
        ):
            end += 1
        text = textwrap.dedent("\n".join(lines[start:end]))
        yield Block(language, start, frozenset(classes), text)


def compile_block(page: Path, block: Block) -> t.Any:
    """The code of a block, whose tracebacks point at the page."""
    return compile("\n" * block.line + block.text, str(page), "exec")


def run_page(page: Path) -> dict[str, t.Any]:
    """Run the ``python`` blocks of a page in order, in one namespace.

    Not those of class ``old``: they are written for another library.
    """
    namespace: dict[str, t.Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python" and "old" not in block.classes:
            exec(compile_block(page, block), namespace)
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

"""The page on the first server and client: what it shows is there, what it builds works."""

from __future__ import annotations

import re

from pages import ROOT
from pages import run_page

PAGE = ROOT / "docs/first.rst"


def test_first_page_shows_both_programs():
    shown = re.findall(
        r"literalinclude:: (\S+)\n +:language: python\n +:start-at: (.+)", PAGE.read_text()
    )
    assert [path.rpartition("/")[2] for path, _ in shown] == ["server.py", "client.py"]
    for path, line in shown:
        assert f"\n{line}" in (PAGE.parent / path).read_text()


def test_first_page_explains_what_is_there():
    source = "".join(path.read_text() for path in sorted((ROOT / "examples/first").glob("*.py")))
    lines = re.findall(r"^(``.+``)\n    ", PAGE.read_text(), re.MULTILINE)
    terms = [term for line in lines for term in re.findall(r"``(.+?)``", line)]
    assert len(terms) > 8
    for term in terms:
        assert term.partition("...")[0] in source


def test_first_page_keeps_a_total_for_each(serve):
    server = serve(run_page(PAGE)["app"])
    for client in (server.connect(), server.connect()):
        for message, answer in (
            ("40", "Server records total=40"),
            ("two", "Please send a whole number."),
            ("2", "Server records total=42"),
        ):
            client.send(message)
            assert client.recv() == answer

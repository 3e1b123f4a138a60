"""What the documentation says is run, and what there is, it says."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import languages
import pytest
from pages import Block
from pages import blocks
from pages import PAGES
from pages import ROOT
from pages import run_page

import flask_websockets
from flask_websockets import config
from flask_websockets import handshake


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page):
    run_page(page)


@pytest.mark.parametrize(
    ("page", "block"),
    [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line} {block.language}")
        for page in PAGES
        for block in blocks(page)
        if not block.runs
    ],
)
def test_other_blocks_are_what_they_say(page, block, tmp_path):
    languages.check(page, block, tmp_path)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("brainfuck", "+"),
        ("::", "gunicorn --no-such-option app:app"),
        ("::", "no-such-program"),
        ("bash", "if true; then"),
        ("console", "ls"),
        ("console", "$ flask run --workers 4"),
        ("console", "$ python examples/none/app.py"),
        ("dockerfile", "FROM python\nINSTALL gunicorn"),
        ("html", "<p><b>bold</i></p>"),
        ("ini", "[Service]\nExecStart=/bin/true\nLimitNOFILES=1"),
        ("javascript", "const = 1"),
        ("json", "{'a': 1}"),
        ("nginx", "server { listen 80; proxi_pass http://127.0.0.1; }"),
    ],
)
def test_a_block_that_is_wrong_fails(language, text, tmp_path):
    caption = "x.service" if language == "ini" else ""
    block = Block(language, 1, frozenset(), caption, text)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        languages.check(ROOT / "README.rst", block, tmp_path)
    assert not isinstance(caught.value, (NameError, TypeError, AttributeError))


def test_blocks_are_found():
    # A change of the layout must not let the tests above pass by finding nothing.
    names = {page.stem for page in PAGES if any(block.runs for block in blocks(page))}
    assert names >= {"README", "quickstart", "handlers", "connection", "handshake", "contexts"}
    found = {block.language for page in PAGES for block in blocks(page)}
    assert found >= {"::", "console", "dockerfile", "ini", "javascript", "nginx", "python"}


def test_readme_renders():
    try:
        import pygments  # noqa: F401  (docutils colours code with it, or warns)
        from docutils.core import publish_string
        from docutils.writers import get_writer_class
    except ImportError:
        if os.environ.get("TESTS_REQUIRE_ALL"):
            raise
        pytest.skip("docutils is not installed")
    publish_string(
        (ROOT / "README.rst").read_text(),
        writer=get_writer_class("html5")(),
        settings_overrides={"halt_level": 2, "report_level": 2, "file_insertion_enabled": False},
    )


def test_readme_links_exist():
    for target in re.findall(r"<([\w/-]+\.rst)>`_", (ROOT / "README.rst").read_text()):
        assert (ROOT / target).exists(), target


def test_api_names_all():
    words = set(re.findall(r"\w+", (ROOT / "docs/api.rst").read_text()))
    assert not set(flask_websockets.__all__) - words


def test_all_is_what_can_be_imported():
    for name in flask_websockets.__all__:
        assert getattr(flask_websockets, name) is not None


def test_configuration_names_every_key():
    page = (ROOT / "docs/configuration.rst").read_text()
    keys = {config.PREFIX + name.upper() for name in config.Config.__dataclass_fields__}
    assert set(re.findall(r"\bWEBSOCKETS_[A-Z_]+[A-Z]\b", page)) == keys


def test_handshake_page_has_every_sentence():
    page = " ".join((ROOT / "docs/handshake.rst").read_text().split())
    tree = ast.parse(Path(handshake.__file__).read_text())
    refusals = {
        name
        for name, value in vars(handshake).items()
        if isinstance(value, type) and issubclass(value, flask_websockets.HandshakeError)
    }
    sentences = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in refusals
        for part in ast.walk(node.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert len(refusals) == 6
    assert len(sentences) >= 15
    for sentence in sentences:
        assert " ".join(sentence.value.split()) in page


def test_readme_tests_as_ci_does():
    line = next(
        line.strip()
        for line in (ROOT / "README.rst").read_text().splitlines()
        if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci/run").read_text()

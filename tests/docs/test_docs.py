"""What the documentation says is run, and what there is, it says."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from pages import blocks
from pages import compile_block
from pages import PAGES
from pages import ROOT
from pages import run_page

import flask_websockets
from flask_websockets import config
from flask_websockets import handshake


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page):
    run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_old_code_compiles(page):
    # It is there to be compared: nobody would see an error in it.
    for block in blocks(page):
        if block.language == "python" and "old" in block.classes:
            compile_block(page, block)


def test_blocks_are_found():
    # A change of the layout must not let the tests above pass by finding nothing.
    names = {page.stem for page in PAGES if list(blocks(page))}
    assert names >= {"README", "quickstart", "handlers", "connection", "handshake", "contexts"}


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
    for target in re.findall(r"<((?:docs/)?\w+\.rst)>`_", (ROOT / "README.rst").read_text()):
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
    sentences = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("BadHandshake", "UpgradeRequired", "ServerUnsupported")
        for part in ast.walk(node.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    assert len(sentences) >= 10
    for sentence in sentences:
        assert " ".join(sentence.value.split()) in page


def test_readme_tests_as_ci_does():
    line = next(
        line.strip()
        for line in (ROOT / "README.rst").read_text().splitlines()
        if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci/run").read_text()

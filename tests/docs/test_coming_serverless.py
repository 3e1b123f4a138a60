"""What the page on serverless functions builds does what it says."""

from __future__ import annotations

import pytest
from pages import blocks
from pages import ROOT
from pages import run_page
from pages import talk

PAGE = "docs/coming/serverless.rst"


def test_serverless_page_echoes_five_times(serve):
    client = serve(run_page(ROOT / PAGE)["app"]).connect("/socktest")
    for number in range(5):
        client.send(str(number))
        assert client.recv() == str(number)
    assert client.recv_close() == (1000, "")


def test_serverless_page_shows_one_function():
    old, new = (block.text for block in blocks(ROOT / PAGE) if "def main(" in block.text)
    assert old.strip() in new


@pytest.mark.parametrize("path", ["/everybody", "/all"])
def test_serverless_page_reaches_everybody(serve, path):
    assert talk(serve, PAGE, path, "hello") == ["hello"]
    server = serve(run_page(ROOT / PAGE)["app"])
    first, second = server.connect(path), server.connect(path)
    second.send("from the second")
    assert second.recv() == "from the second"
    first.send("from the first")
    assert second.recv() == "from the first"

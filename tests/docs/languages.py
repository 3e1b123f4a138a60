"""What can be said of a code block without its page: each language has its check.

A check raises if the block is not what it says it is, or names what does not exist.
"""

from __future__ import annotations

import configparser
import functools
import html.parser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import jinja2
import pytest
from harness import make_certificate
from harness import needs
from pages import Block
from pages import compile_block
from pages import ROOT

#: Programs that a page may name where they are not installed.
ELSEWHERE = {"curl", "docker", "fission", "journalctl", "nginx", "systemctl", "wscat"}
#: How a program is asked for its options, if not by ``--help``.
HELP = {"curl": ["--help", "all"], "nginx": ["-h"]}
WITH_COMMANDS = {"docker", "flask", "pip"}

UNIT_KEYS = {
    "Unit": {"Description", "After", "Wants", "Requires"},
    "Service": {
        "Environment", "ExecReload", "ExecStart", "KillMode", "KillSignal", "LimitNOFILE",
        "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "Restart", "RuntimeDirectory",
        "TimeoutStopSec", "Type", "User", "WorkingDirectory",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
DOCKER_WORDS = {
    "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip
#: Elements whose end may be left out, and those that have none.
UNENDED = {"br", "hr", "img", "input", "li", "link", "meta", "option", "p", "td", "th", "tr"}


def check(page: Path, block: Block, folder: Path) -> None:
    """Check one block; *folder* is empty and the check's own."""
    if block.language not in CHECKS:
        pytest.fail(f"no test knows {block.language!r} of {page}:{block.line}")
    CHECKS[block.language](page, block, folder)


# Programs and data


def _check_python(page: Path, block: Block, folder: Path) -> None:
    compile_block(page, block)


def _check_javascript(page: Path, block: Block, folder: Path) -> None:
    script = folder / "block.mjs"
    script.write_text(block.text)
    _run([needs("node"), "--check", str(script)])


def _check_html(page: Path, block: Block, folder: Path) -> None:
    jinja2.Environment().parse(block.text)
    _Tags().feed(block.text)


class _Tags(html.parser.HTMLParser):
    """Fails if an element ends that has not begun last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: t.Any) -> None:
        if tag not in UNENDED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in UNENDED or self.open.pop() == tag, f"</{tag}>"


def _check_json(page: Path, block: Block, folder: Path) -> None:
    json.loads(block.text)


def _check_toml(page: Path, block: Block, folder: Path) -> None:
    pytest.importorskip("tomllib").loads(block.text)


def _check_http(page: Path, block: Block, folder: Path) -> None:
    first = block.text.strip().splitlines()[0]
    assert re.match(r"HTTP/1\.1 \d{3} \w|[A-Z]+ /\S* HTTP/1\.1$", first), first


# Configuration of servers


def _check_ini(page: Path, block: Block, folder: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(block.text)
    assert parser.sections()
    if not block.caption.endswith(".service"):
        return
    for section in parser.sections():
        assert parser[section].keys() <= UNIT_KEYS[section]
    verify = _find("systemd-analyze")
    if verify is not None:
        unit = folder / block.caption
        # The program and the user of the page are not on this machine.
        text = re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={sys.executable}", block.text)
        unit.write_text(re.sub(r"(?m)^(User|Group|WorkingDirectory)=.*\n", "", text))
        complaints = _run([verify, "verify", "--man=no", str(unit)])
        # Other units of the machine are verified with it.
        assert block.caption not in complaints, complaints


def _check_docker(page: Path, block: Block, folder: Path) -> None:
    lines = block.text.strip().replace("\\\n", " ").splitlines()
    for line in filter(None, lines):
        assert line.split()[0] in DOCKER_WORDS, line
    assert lines[0].startswith("FROM ")


def nginx_config(text: str, folder: Path, listen: str, CERTIFICATE: str, KEY: str) -> str:
    """A whole configuration around directives of ``http`` that a page shows.

    :param listen: the address in place of the page's.
    """
    for old, new in (
        (r"listen [\d.:]+", f"listen {listen}"),
        (r"(ssl_certificate +)[^;]+", rf"\g<1>{CERTIFICATE}"),
        (r"(ssl_certificate_key +)[^;]+", rf"\g<1>{KEY}"),
    ):
        text = re.sub(old, new, text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    # As root, workers would be somebody else, who may not enter the test's folder.
    user = "" if os.geteuid() else "user root;"
    return (
        f"{user} daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}\n}}\n"
    )


def _check_nginx(page: Path, block: Block, folder: Path) -> None:
    nginx = needs("nginx")
    paths = make_certificate(folder).paths
    config = folder / "nginx.conf"
    # It tests the addresses as well, of which a user has only some.
    config.write_text(nginx_config(block.text, folder, f"unix:{folder}/nginx.sock", **paths))
    _run([nginx, "-t", "-q", "-p", str(folder), "-c", str(config)])


# Commands


def _check_shell(page: Path, block: Block, folder: Path) -> None:
    script = block.text
    if block.language == "console":
        commands = re.findall(r"(?m)^\$ ((?:.*\\\n)*.*)$", script)
        assert commands, "a console shows its commands behind a $"
        script = "\n".join(commands)
    _run(["bash", "-n"], input=script)
    for line in script.replace("\\\n", " ").splitlines():
        for words in _commands(line):
            _check_command(page, words)


def _commands(line: str) -> t.Iterator[list[str]]:
    """The words of each command of a line, from the program on."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|<>()"):
            if words:
                yield words
            words = []
        elif words or not re.match(r"\w+=", word):
            words.append(word)


def _check_command(page: Path, words: list[str]) -> None:
    program, *arguments = words
    name = re.sub(r"^python3?$", "python", Path(program).name)
    if name == "cd":
        return
    if name == "python":
        if arguments[0] == "-m":
            command, arguments = [sys.executable, "-m", arguments[1]], arguments[2:]
        elif arguments[0].endswith(".py"):
            _check_script(page, *arguments)
            return
        else:
            command = [sys.executable]
    else:
        found = _find(name)
        assert found or name in ELSEWHERE, f"{name} is no program that the tests know"
        if found is None:
            return
        command = [found]
    how = tuple(HELP.get(name, ["--help"]))
    usage = _usage(*command, *how)
    if name in WITH_COMMANDS:
        usage += "".join(_usage(*command, one, *how) for one in arguments if one in usage.split())
    if name == "flask" and "websockets" in arguments:
        # The app of the page is in no file here, and any has these commands.
        one = arguments[arguments.index("websockets") + 1]
        usage += _usage(
            *command, "--app", str(ROOT / "examples/chat/app.py"), "websockets", one, *how
        )
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("-") and option != "-":
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", usage), (words, option)


def _check_script(page: Path, script: str, *arguments: str) -> None:
    if not (ROOT / script).exists():
        # A file that the page itself tells to write.
        assert re.search(rf"``{script}``|:caption: {script}", page.read_text()), script
        return
    code = (ROOT / script).read_text()
    for argument in arguments:
        assert not argument.startswith("-") or argument in code, argument


@functools.cache
def _usage(*command: str) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    usage = result.stdout + result.stderr
    assert "No module named" not in usage, usage
    return usage


def _find(program: str) -> str | None:
    # Those of the virtual environment first, whether or not it is active.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return shutil.which(program, path=path)


def _run(command: list[t.Any], **options: t.Any) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    return output


def _check_nothing(page: Path, block: Block, folder: Path) -> None:
    """Text is only read."""


CHECKS: dict[str, t.Callable[[Path, Block, Path], None]] = {
    "::": _check_shell,
    "bash": _check_shell,
    "console": _check_shell,
    "dockerfile": _check_docker,
    "html": _check_html,
    "html+jinja": _check_html,
    "http": _check_http,
    "ini": _check_ini,
    "javascript": _check_javascript,
    "json": _check_json,
    "nginx": _check_nginx,
    "none": _check_nothing,
    "python": _check_python,
    "text": _check_nothing,
    "toml": _check_toml,
}

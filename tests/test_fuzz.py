"""What fuzzing has found is tried again, without a fuzzer, and its runs are read right."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Not by its name, which others have too.
spec = importlib.util.spec_from_file_location("fuzzing", ROOT / "fuzz/run.py")
assert spec is not None
assert spec.loader is not None
fuzzing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzzing)

# A log's last lines, as atheris leaves them.
CLEAN = """\
#6483\tDONE   cov: 418 ft: 1646 corp: 165/9563b lim: 224 exec/s: 926 rss: 62Mb
###### Recommended dictionary. ######
"\\000\\000" # Uses: 73
Done 6483 runs in 7 second(s)
"""
FAULT = """\
#4590\tREDUCE cov: 417 ft: 1582 corp: 149/9174b lim: 224 exec/s: 1147 rss: 62Mb L: 32/224
 === Uncaught Python exception: ===
AssertionError: (5158, 4625)
Traceback (most recent call last):
==23841== ERROR: libFuzzer: fuzz target exited
SUMMARY: libFuzzer: fuzz target exited
"""


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_the_corpus_shows_no_fault(target):
    files = fuzzing.corpus(target)
    assert files
    check = fuzzing.load(target).check
    for file in files:
        check(file.read_bytes())


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_where_a_corpus_begins_shows_no_fault(target):
    module = fuzzing.load(target)
    for data in module.seeds():
        module.check(data)


def test_a_fault_is_named_with_its_file(tmp_path, capsys, monkeypatch):
    (tmp_path / "input").write_bytes(b"data")

    def check(data):
        raise AssertionError(data)

    monkeypatch.setattr(fuzzing.load("deflate"), "check", check)
    with pytest.raises(AssertionError, match="data"):
        fuzzing.replay("deflate", [tmp_path / "input"])
    assert capsys.readouterr().err == f"{tmp_path / 'input'} shows a fault of deflate:\n"


def test_a_run_is_clean_only_if_it_ended():
    clean = {"executions": 6483, "seconds": 7, "result": "clean"}
    assert fuzzing.read_log(CLEAN) == clean
    assert fuzzing.read_log(CLEAN.splitlines()[0])["result"] == "not finished"


def test_a_fault_is_named_by_its_exception():
    assert fuzzing.find_fault(FAULT) == "AssertionError"
    assert fuzzing.find_fault("SUMMARY: libFuzzer: timeout") == "timeout"
    assert fuzzing.find_fault("ModuleNotFoundError: atheris") == "it could not run"


def test_the_table_has_the_runs_that_ended(tmp_path):
    told = {"commit": "abc1234", "date": "2030-01-31", "executions": 1_234_567, "result": "clean"}
    for target, build in (("deflate", "pure"), ("parser", "pure"), ("parser", "compiled")):
        result = {"target": target, "build": build, "seconds": 3600, **told}
        line = fuzzing.RESULT + json.dumps(result)
        (tmp_path / f"{target}-{build}.log").write_text(f"{CLEAN}{line}\n")
    (tmp_path / "handshake-pure.log").write_text(CLEAN)  # still running
    fuzzing.write_table(fuzzing.read_results(tmp_path), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(fuzzing.COLUMNS)
    assert [row[:2] for row in rows] == [
        ["parser", "compiled"],
        ["parser", "pure"],
        ["deflate", "pure"],
    ]
    assert rows[0][2:] == ["60", "1,234,567", "clean", "abc1234", "2030-01-31"]


def test_the_command_replays():
    command = [sys.executable, str(ROOT / "fuzz/run.py"), "deflate", "--replay"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    count = len(fuzzing.corpus("deflate"))
    assert result.stdout == f"deflate, {fuzzing.build()}: {count} inputs show no fault\n"

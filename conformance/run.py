"""Run the conformance suite (Autobahn|Testsuite, all 517 cases) on every server.

    python conformance/run.py                       every server, 5 to 10 minutes each
    python conformance/run.py pywsgi flask-run      some of them
    python conformance/run.py pywsgi+tls            over TLS
    python conformance/run.py --quick               without the long groups 9, 12 and 13
    python conformance/run.py --jobs 2              two servers at a time

Prints a line for each server and writes ``docs/conformance-results.csv``, which the
docs show (not with ``--quick``). Exits with 1 if a case is FAILED, UNIMPLEMENTED, or
closed uncleanly, or if the suite did not run all cases.

The suite is a program for Python 2.7. Where there is a CPython 2.7:

    python2.7 -m virtualenv suite && suite/bin/pip install autobahntestsuite
    WSTEST=suite/bin/wstest python conformance/run.py
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "servers"))

from harness import COMMANDS  # noqa: E402
from harness import make_certificate  # noqa: E402
from harness import Process  # noqa: E402
from harness import TLS_COMMANDS  # noqa: E402

SERVERS = [*COMMANDS, *(f"{name}+tls" for name in TLS_COMMANDS)]
RESULTS = ROOT / "docs" / "conformance-results.csv"
COLUMNS = [
    "server",
    "run",
    "ok",
    "informational",
    "non-strict",
    "unimplemented",
    "failed",
    "unclean",
]
LONG_GROUPS = ["9.*", "12.*", "13.*"]


class Result(t.NamedTuple):
    """What the suite says of one server."""

    server: str
    wanted: int
    counts: collections.Counter[str]
    unclean: int
    notable: list[str]
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether all cases ran and none of them fell short."""
        bad = self.counts["failed"] + self.counts["unimplemented"] + self.unclean
        return self.wanted > 0 and self.counts.total() == self.wanted and not bad

    def row(self) -> list[str]:
        """The line of the table in the docs."""
        names = ("ok", "informational", "non-strict", "unimplemented", "failed")
        counts = [str(self.counts[name]) for name in names]
        return [self.server, f"{self.counts.total()} of {self.wanted}", *counts, str(self.unclean)]


def run(server: str, wstest: str, excluded: list[str], timeout: float) -> Result:
    """Start *server*, run the suite against it, and count."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        name, _, tls = server.partition("+")
        certificate = make_certificate(work)
        process = Process(
            [
                certificate.paths.get(part, part)
                for part in (TLS_COMMANDS if tls else COMMANDS)[name]
            ],
            work / "server.log",
            tls=certificate.context if tls else None,
            environ={"COMPRESS": "1"},
        )
        try:
            spec = {
                "outdir": "./reports",
                "options": {"failByDrop": False},
                "servers": [{"agent": server, "url": process.url("/echo")}],
                "cases": ["*"],
                "exclude-cases": excluded,
                "exclude-agent-cases": {},
            }
            (work / "fuzzingclient.json").write_text(json.dumps(spec))
            command = [wstest, "-m", "fuzzingclient", "-s", "fuzzingclient.json"]
            suite = subprocess.run(
                command, cwd=work, capture_output=True, text=True, timeout=timeout, check=True
            )
        finally:
            process.stop()
        index = json.loads((work / "reports" / "index.json").read_text())[server]
        wanted = int(suite.stdout.split("will run ")[1].split()[0])
    counts = collections.Counter(case["behavior"].lower() for case in index.values())
    fine = ("OK", "INFORMATIONAL")
    notable = [
        f"{name} {case['behavior']} {case['behaviorClose']}"
        for name, case in index.items()
        if case["behavior"] not in fine or case["behaviorClose"] not in fine
    ]
    unclean = sum(case["behaviorClose"] not in fine for case in index.values())
    return Result(server, wanted, counts, unclean, notable, time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the conformance suite on every server.")
    parser.add_argument("servers", nargs="*", help="all without TLS by default")
    parser.add_argument("--quick", action="store_true", help="without groups 9, 12 and 13")
    parser.add_argument("--jobs", type=int, default=1, help="how many servers at a time")
    parser.add_argument("--timeout", type=float, default=2400, help="seconds for one server")
    options = parser.parse_args()
    unknown = set(options.servers) - set(SERVERS)
    if unknown:
        parser.error(f"no server {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    wstest = shutil.which(os.environ.get("WSTEST", "wstest"))
    if wstest is None:
        parser.error("no program wstest; say where the suite is with WSTEST=path/to/wstest")
    program = os.path.abspath(wstest)
    excluded = LONG_GROUPS if options.quick else []
    clean, rows = True, []
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(
            lambda server: run(server, program, excluded, options.timeout),
            options.servers or list(COMMANDS),
        )
        for result in results:
            clean = clean and result.is_clean
            rows.append(result.row())
            print("  ".join(result.row()), f"{result.seconds:.0f} s", *result.notable, flush=True)
    if not options.quick:
        write(rows)
    return 0 if clean else 1


def write(rows: list[list[str]]) -> None:
    """Put *rows* into the table, each in place of its server's last one."""
    known = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            known = {row[0]: row for row in list(csv.reader(file))[1:]}
    known.update({row[0]: row for row in rows})
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(known[server] for server in SERVERS if server in known)


if __name__ == "__main__":
    sys.exit(main())

"""Measure WebSocket servers side by side: this project, its peers, and what limits both.

    python benchmarks/run.py                            all of it, about 20 minutes
    python benchmarks/run.py --only ours,picows         some servers
    python benchmarks/run.py --work b,c --rounds 5      some workloads, five rounds
    python benchmarks/run.py --json out.json            keep the results of each round
    python benchmarks/run.py --chart                    make the docs' tables and chart of it
    python benchmarks/run.py --redraw                   the same from what is kept, unmeasured
    python benchmarks/run.py --check                    is everything able to run? 2 minutes

Servers take turns at each workload, one process at a time, on one core; the load generator is on
another. Figures are medians of the rounds. A run of all servers and workloads writes
``docs/benchmarks.json``, and the tables and the chart of ``docs/benchmarks.rst``. Exits with 1 if
a cell has no figure: on a wrong reply, or none.

Needs Linux, gcc and zlib's headers; the peers are in ``benchmarks/requirements.txt``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import measure
import report

DOCS = measure.ROOT / "docs"
RESULTS = DOCS / "benchmarks.json"
CHARTS = [DOCS / "images" / "benchmarks.png", DOCS / "images" / "benchmarks.svg"]


def main() -> int:
    options = read_options()
    if options.redraw:
        publish(json.loads((options.json or RESULTS).read_text()))
        return 0
    if missing := measure.missing_tools():
        print(f"cannot measure: {missing}", file=sys.stderr)
        return 2
    servers = installed(options.only)
    measure.raise_file_limit()
    if measure.cores() is None:
        print("there is one core: nothing is pinned, and the figures say little")
    about = describe(servers, options)
    if not about["compiled"]:
        print("the compiled core is not built: ours is what ours-pure is")
    rows = run_rounds(servers, options)
    results = {"about": about, "rows": rows}
    show(results, options)
    if file := options.json or (RESULTS if options.whole else None):
        file.write_text(json.dumps(results, indent=1) + "\n")
    if options.chart:
        publish(results)
    errors = [row for row in rows if "error" in row]
    for row in errors:
        print(f"no figure: {row['server']} {row['work']}: {row['error']}", file=sys.stderr)
    return 1 if errors else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=names_among(measure.SERVERS), help="servers: a,b")
    parser.add_argument("--work", type=names_among(measure.WORKS), help="workloads: a,b")
    parser.add_argument("--rounds", type=int, help="3 unless set, 1 with --check")
    parser.add_argument("--seconds", type=float, help="for one cell: 2 unless set")
    parser.add_argument("--peer", default="picows", help="what the ratios are to")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write the results there, not to the docs"
    )
    parser.add_argument("--chart", action="store_true", help="write the docs' tables and chart")
    parser.add_argument("--redraw", action="store_true", help="--chart from the results' file")
    parser.add_argument("--check", action="store_true", help="a second for each cell, one round")
    options = parser.parse_args()
    if options.peer not in measure.SERVERS:
        parser.error(f"no server {options.peer}; there are {', '.join(measure.SERVERS)}")
    options.whole = not (options.only or options.work or options.check or options.json)
    options.chart = options.chart or options.whole
    options.only = options.only or list(measure.SERVERS)
    options.work = options.work or list(measure.WORKS)
    options.rounds = options.rounds or (1 if options.check else 3)
    options.seconds = options.seconds or (0.5 if options.check else 2.0)
    return options


def names_among(known: t.Collection[str]) -> t.Callable[[str], list[str]]:
    """Make a reader of names that are separated by commas."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return found

    return names


def installed(names: list[str]) -> dict[str, measure.Server]:
    """The servers that can be started; says which are left out."""
    servers = {name: measure.SERVERS[name] for name in names}
    for name, server in servers.items():
        if server.missing:
            print(f"left out: {name}, as {', '.join(server.missing)} is not installed")
    return {name: server for name, server in servers.items() if not server.missing}


def run_rounds(servers: dict[str, measure.Server], options: argparse.Namespace) -> list[report.Row]:
    """Measure all cells, in each round every server at one work after the other."""
    rows = []
    for number in range(options.rounds):
        for work in options.work:
            for name, server in servers.items():
                if work in server.lacks:
                    continue
                row: report.Row = {"server": name, "work": work, "round": number}
                try:
                    brief = options.check
                    row |= measure.measure(server, measure.WORKS[work], options.seconds, brief)
                    said = f"{report.number(row['value'])} {measure.WORKS[work].unit}"
                except measure.Failed as error:
                    row["error"] = said = str(error)
                rows.append(row)
                print(f"{number + 1}/{options.rounds}  {work:5}  {name:22}  {said}", flush=True)
    return rows


def describe(servers: dict[str, measure.Server], options: argparse.Namespace) -> dict[str, t.Any]:
    """When, where and of what the results are."""
    names = ["Flask", "gevent", "uvloop", "uvicorn"]
    names += [server.distribution for server in servers.values() if server.distribution]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "compiled": measure.is_compiled(measure.SERVERS["ours"]),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions(names),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "peer": options.peer,
    }


def commit() -> str:
    """The checkout's commit, and whether it is what was measured."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(measure.ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "flask_websockets", "benchmarks")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions(names: t.Iterable[str]) -> dict[str, str]:
    found = {}
    for name in sorted(set(names), key=str.lower):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def show(results: dict[str, t.Any], options: argparse.Namespace) -> None:
    """Print the tables."""
    rows = results["rows"]
    works = report.works_of(rows)
    if not works:
        return
    print()
    for work in works:
        print(f"{work:5}  {measure.WORKS[work].title}, {measure.WORKS[work].unit}")
    print("", report.aligned(report.value_table(rows)), sep="\n")
    if options.check:
        return
    if options.peer in report.servers_of(rows):
        print(f"\ntimes {options.peer}, in the same round")
        print(report.aligned(report.ratio_table(rows, options.peer)))
    if timed := [row for row in rows if "p99_us" in row]:
        print("\n99th percentile of the time for a reply, ms")
        print(report.aligned(report.latency_table(timed)))
    print(f"\nother programs had {report.others_text(rows)}")


def publish(results: dict[str, t.Any]) -> None:
    """Write what ``docs/benchmarks.rst`` shows."""
    report.write_tables(results, DOCS)
    try:
        report.draw(results, CHARTS)
    except ImportError:
        print("no chart: matplotlib is not installed")


if __name__ == "__main__":
    sys.exit(main())

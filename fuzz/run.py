"""Fuzz what reads a stranger's bytes, and keep what is found.

    python fuzz/run.py parser --seconds 600     fuzz one target: parser, handshake or deflate
    PURE_FLASK_WEBSOCKETS=1 python fuzz/run.py parser        the same of the sources
    python fuzz/run.py parser --replay          only try the corpus once; needs no fuzzer
    python fuzz/run.py parser --merge           put what was found into the corpus, made small
    python fuzz/run.py --table                  write docs/fuzzing.csv from the logs

Exits with 1 if an input shows a fault, and says which file it is in; ``--replay FILE`` tries
it again. What is found, the logs and such files are in ``build/fuzz`` unless ``--work`` names
another folder. Needs ``pip install -e ".[test,fuzz]"``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t

FUZZ = pathlib.Path(__file__).resolve().parent
ROOT = FUZZ.parent
CORPUS = FUZZ / "corpus"
TABLE = ROOT / "docs" / "fuzzing.csv"
COLUMNS = ("Target", "Build", "Minutes", "Executions", "Result", "Commit", "Date")
TARGETS = ("parser", "handshake", "deflate")
PATHS = [ROOT, FUZZ, ROOT / "tests" / "protocol"]

#: Inputs of at most so many bytes, and seconds for one before it counts as hanging: most
#: take a millisecond, but the machine may be busy.
LARGEST = 4096
HANGS = 60
OPTIONS = [f"-max_len={LARGEST}", "-len_control=20", f"-timeout={HANGS}", "-rss_limit_mb=2048"]

#: What a log ends with, once it has ended.
RESULT = "result: "


def main() -> int:
    options = read_options()
    if options.table:
        write_table(read_results(options.work / "logs"), TABLE)
        return 0
    if options.replay is not None:
        return replay(options.target, options.replay or corpus(options.target))
    work = Work(options.work, options.target)
    if options.merge:
        merge(work)
        return 0
    return fuzz(work, options.seconds)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="60 unless set")
    parser.add_argument(
        "--replay", nargs="*", type=pathlib.Path, metavar="FILE", help="the corpus unless set"
    )
    parser.add_argument("--merge", action="store_true", help="of both builds, by the sources")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    if options.target is None and not options.table:
        parser.error(f"name a target: {', '.join(TARGETS)}")
    return options


# The corpus


def corpus(target: str) -> list[pathlib.Path]:
    """The files of a target's committed corpus."""
    return sorted((CORPUS / target).iterdir())


def load(target: str) -> t.Any:
    """The module of a target."""
    for path in PATHS:
        if str(path) not in sys.path:
            sys.path.append(str(path))
    return importlib.import_module(f"targets.{target}")


def replay(target: str, files: t.Iterable[pathlib.Path]) -> int:
    """Try each of *files*; the first fault is raised."""
    check, count = load(target).check, 0
    for file in files:
        try:
            check(file.read_bytes())
        except Exception:
            print(f"{file} shows a fault of {target}:", file=sys.stderr)
            raise
        count += 1
    print(f"{target}, {build()}: {count} inputs show no fault")
    return 0


def build() -> str:
    """Which build of the package a process has that is started here."""
    code = "import flask_websockets as f; print(f.compiled)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environ(), capture_output=True, text=True, check=True)
    return {"True": "compiled", "False": "pure"}[result.stdout.strip()]


def environ(**more: str) -> dict[str, str]:
    """This checkout, whatever else is installed."""
    paths = [*map(str, PATHS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Work:
    """Where a target's runs leave what they find."""

    def __init__(self, folder: pathlib.Path, target: str) -> None:
        self.target = target
        self.build = build()
        self.folder = folder.absolute()
        self.found = self._make("found", f"{target}-{self.build}")
        self.faults = self._make("faults", target)
        self.words = self._make("found") / f"{target}-{self.build}.words"
        self.log = self._make("logs") / f"{target}-{self.build}.log"

    def _make(self, *names: str) -> pathlib.Path:
        path = self.folder.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def found_by_all(self) -> list[pathlib.Path]:
        folders = (self.folder / "found").glob(f"{self.target}-*")
        return sorted(folder for folder in folders if folder.is_dir())


def write_seeds(target: str, folder: pathlib.Path) -> None:
    """What a corpus begins with, each in a file with the name that libFuzzer would give it."""
    for data in load(target).seeds():
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


# Runs


def fuzz(work: Work, seconds: int) -> int:
    """Fuzz for so many seconds, or until there is a fault."""
    folders = [str(work.found)]
    if (CORPUS / work.target).is_dir():
        folders.append(str(CORPUS / work.target))
    write_seeds(work.target, work.found)
    limits = [f"-max_total_time={seconds}", f"-artifact_prefix={work.faults}/"]
    if words := getattr(load(work.target), "WORDS", ()):
        work.words.write_text("".join(f"{quote(word)}\n" for word in words))
        limits.append(f"-dict={work.words}")
    result = {
        "target": work.target,
        "build": work.build,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    print(f"fuzzing {work.target}, {work.build}, for {seconds} s; see {work.log}", flush=True)
    with work.log.open("w") as log:
        command = fuzzer(work.target, *limits, *folders)
        code = subprocess.run(command, env=environ(), stdout=log, stderr=log).returncode
    text = work.log.read_text(errors="replace")
    result |= read_log(text)
    if code != 0:
        result["result"] = find_fault(text)
    with work.log.open("a") as log:
        print(f"{RESULT}{json.dumps(result)}", file=log)
    print(", ".join(f"{key}: {value}" for key, value in result.items()))
    return 0 if result["result"] == "clean" else 1


def quote(word: str) -> str:
    """A word as libFuzzer reads it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


def fuzzer(target: str, *arguments: str) -> list[str]:
    return [sys.executable, str(FUZZ / "fuzzer.py"), target, *OPTIONS, *arguments]


def read_log(text: str) -> dict[str, t.Any]:
    """What libFuzzer says at its end, in these words, or that it did not come to it."""
    done = re.findall(r"^Done (\d+) (?:runs )?in (\d+) second", text, re.MULTILINE)
    if not done:
        return {"executions": 0, "seconds": 0, "result": "not finished"}
    executions, seconds = map(int, done[-1])
    return {"executions": executions, "seconds": seconds, "result": "clean"}


def find_fault(text: str) -> str:
    """What ended a run before its time."""
    raised = re.findall(r"=== Uncaught Python exception: ===\n(\w+)", text)
    other = re.findall(r"SUMMARY: libFuzzer: (.*)", text)
    return (raised or other or ["it could not run"])[-1]


def commit() -> str:
    """The checkout's commit, and whether it is what is fuzzed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "flask_websockets", "fuzz")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def merge(work: Work) -> None:
    """Keep of all that was found the fewest and shortest inputs that reach as much."""
    with tempfile.TemporaryDirectory() as folder:
        kept, seeds = pathlib.Path(folder, "kept"), pathlib.Path(folder, "seeds")
        kept.mkdir()
        seeds.mkdir()
        write_seeds(work.target, seeds)
        sources = [kept, seeds, *work.found_by_all()]
        if (CORPUS / work.target).is_dir():
            sources.append(CORPUS / work.target)
        command = fuzzer(work.target, "-merge=1", *map(str, sources))
        subprocess.run(command, env=environ(PURE_FLASK_WEBSOCKETS="1"), check=True)
        if not any(kept.iterdir()):
            raise RuntimeError("nothing is left of the corpus; see what is said above")
        shutil.rmtree(CORPUS / work.target, ignore_errors=True)
        shutil.copytree(kept, CORPUS / work.target)
    print(f"{work.target}: {len(corpus(work.target))} inputs")


# The table


def read_results(logs: pathlib.Path) -> list[dict[str, t.Any]]:
    """The results of the runs that have ended, in the order of the targets."""
    results = []
    for log in sorted(logs.glob("*.log")):
        last = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        if last.startswith(RESULT):
            results.append(json.loads(last.removeprefix(RESULT)))
    return sorted(results, key=lambda result: (TARGETS.index(result["target"]), result["build"]))


def write_table(results: t.Iterable[dict[str, t.Any]], table: pathlib.Path) -> None:
    """Write what ``docs/fuzzing.rst`` shows."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for result in results:
            minutes, executions = round(result["seconds"] / 60), f"{result['executions']:,}"
            what = (result["target"], result["build"], minutes, executions)
            writer.writerow([*what, result["result"], result["commit"], result["date"]])


if __name__ == "__main__":
    sys.exit(main())

"""Soak a server: a million messages over connections that come and go, and what it holds then.

    python benchmarks/soak.py                         a million messages, gevent's pywsgi
    python benchmarks/soak.py --server gthread        gunicorn's threads
    python benchmarks/soak.py --messages 100000       fewer
    python benchmarks/soak.py --redraw                the chart and the table anew, unmeasured

Connections echo, broadcast to rooms, and leave in every manner: by the closing handshake, with
a RST, in the middle of a header or a message, or by saying nothing any more. Fifty times in
between all of them leave, and the memory, descriptors, threads, greenlets and objects of
the server are counted.

Exits with 1 if a reply is wrong or something grows, by the line that fits the samples after
the first fifth best: memory, by more than GROWTH for each 1,000 messages and more than GRAIN in
all, as less cannot be told from how Python and the system hand out pages; anything else by
more than FEW in all. Of memory, fewer than ENOUGH messages say nothing: pools and caches fill.

A run of a million messages writes ``docs/soak.json``, ``docs/soak.csv`` and
``docs/images/soak.png``, where it is one of several servers. Needs Linux.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import pathlib
import random
import statistics
import sys
import time
import typing as t
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import measure
import run
from measure import Server
from measure import Work
from visitors import Crowd
from visitors import MOST
from visitors import WrongAnswer

MILLION = 1_000_000
SAMPLES = 50
#: KiB for each 1,000 messages: a quarter of a byte for a message. The smallest object, leaked
#: once for each connection, would be twice as much.
GROWTH = 0.25
#: KiB in all.
GRAIN = 256
#: Messages.
ENOUGH = 500_000
#: One that is just going is no leak, and pools have one more at times.
FEW = 5
#: What must not grow, each by its count.
COUNTED = ("clients", "descriptors", "threads", "greenlets", "ours")

RESULTS = measure.ROOT / "docs" / "soak.json"
TABLE = measure.ROOT / "docs" / "soak.csv"
CHARTS = [measure.ROOT / "docs" / "images" / f"soak.{kind}" for kind in ("png", "svg")]

_SCRIPT = measure.HERE / "servers" / "soaked.py"
_GUNICORN = ("-m", "gunicorn", "--chdir", str(_SCRIPT.parent), "-b", "127.0.0.1:PORT")
SERVERS = {
    "pywsgi": Server("gevent's pywsgi", (sys.executable, str(_SCRIPT), "PORT"), ours=True),
    "gthread": Server(
        "gunicorn -k gthread",
        (
            sys.executable,
            *_GUNICORN,
            "-k",
            "gthread",
            "--threads",
            str(MOST),
            "soaked:create_app()",
        ),
        ("gunicorn",),
        ours=True,
    ),
}

Sample = dict[str, t.Any]


def main() -> int:
    options = read_options()
    if options.redraw:
        publish(json.loads(RESULTS.read_text()))
        return 0
    soaked = soak(SERVERS[options.server], options)
    result = {"server": options.server, "about": describe(options), **soaked}
    result["verdict"] = verdict(result)
    print(result["verdict"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    elif options.messages >= MILLION and "error" not in result:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[options.server] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        publish(results)
    return 0 if result["verdict"].startswith(("flat", "short")) else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", choices=SERVERS, default="pywsgi")
    parser.add_argument("--messages", type=int, default=MILLION, help="a million unless set")
    parser.add_argument("--seconds", type=float, default=3600, help="end then; an hour unless set")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"{SAMPLES} unless set")
    parser.add_argument("--seed", type=int, default=5, help="what is left to chance, again")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write the result there, not to the docs"
    )
    parser.add_argument("--redraw", action="store_true")
    return parser.parse_args()


# Soaking


def soak(server: Server, options: argparse.Namespace) -> dict[str, t.Any]:
    """Drive a server, and take a sample each time that nobody is connected."""
    samples: list[Sample] = []
    with measure.running(server, Work("soak", "messages", ())) as (port, _):
        crowd = Crowd(port, random.Random(options.seed))
        started = time.monotonic()
        error = None
        try:
            crowd.fill()
            for number in range(1, options.samples + 1):
                while crowd.messages < options.messages * number / options.samples:
                    crowd.step()
                crowd.go()
                sample = {"seconds": round(time.monotonic() - started, 1), **take_sample(crowd)}
                samples.append(sample)
                show(sample)
                if sample["seconds"] > options.seconds:
                    break
        except (WrongAnswer, OSError) as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
    result = {
        "connections": crowd.connections,
        "deliveries": crowd.deliveries,
        "manners": dict(sorted(crowd.manners.items())),
        "samples": samples,
    }
    return result if error is None else {**result, "error": error}


def take_sample(crowd: Crowd) -> Sample:
    """What the server holds once the last connection is forgotten."""
    deadline = time.monotonic() + 30
    held = ask(crowd.port)
    while held["clients"] and time.monotonic() < deadline:
        time.sleep(0.05)
        held = ask(crowd.port)
    process = pathlib.Path("/proc", str(held.pop("pid")))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "messages": crowd.messages,
        "rss_kib": int(status["VmRSS"].split()[0]),
        "descriptors": len(list((process / "fd").iterdir())),
        **held,
    }


def ask(port: int) -> dict[str, int]:
    """The server's own count of what it holds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/held", timeout=30) as response:
        found: dict[str, int] = json.load(response)
    return found


def show(sample: Sample) -> None:
    counts = ", ".join(f"{sample[name]} {name}" for name in COUNTED)
    print(
        f"{sample['seconds']:7,.0f} s  {sample['messages']:9,} messages  "
        f"{sample['rss_kib']:8,} KiB  {counts}",
        flush=True,
    )


def describe(options: argparse.Namespace) -> dict[str, t.Any]:
    """When, where and of what the result is."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": run.commit(),
        "compiled": measure.is_compiled(SERVERS[options.server]),
        "cpu": run.cpu_model(),
        "seed": options.seed,
        "versions": run.versions(["Flask", "gevent", "gunicorn"]),
    }


# What comes of it


def settled(samples: list[Sample]) -> list[Sample]:
    """The samples after the first fifth, in which what is made once is made."""
    return samples[len(samples) // 5 :]


def slope(samples: list[Sample], name: str = "rss_kib") -> float:
    """How much more for each 1,000 messages, by the line of least squares."""
    if len(samples) < 2:
        return 0.0
    thousands = [sample["messages"] / 1000 for sample in samples]
    return statistics.linear_regression(thousands, [sample[name] for sample in samples]).slope


def verdict(result: dict[str, t.Any]) -> str:
    """A sentence, which begins with "flat", "short", "grows" or "wrong"."""
    if "error" in result:
        return f"wrong: {result['error']}"
    samples = settled(result["samples"])
    thousands = (samples[-1]["messages"] - samples[0]["messages"]) / 1000
    for name in COUNTED:
        more = slope(samples, name) * thousands
        if more > FEW:
            return f"grows: {more:.0f} {name} more, of {samples[0][name]}"
    growth = slope(samples)
    total = growth * thousands
    word = "grows" if growth > GROWTH and total > GRAIN else "flat"
    if samples[-1]["messages"] < ENOUGH:
        word = "short, so this says little"
    return f"{word}: {growth:+.3f} KiB for each 1,000 messages, {total:+.0f} KiB in all"


def publish(results: dict[str, t.Any]) -> None:
    """Write what the docs show."""
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table(results))
    try:
        draw(results)
    except ImportError:
        print("no chart: matplotlib is not installed")


def table(results: dict[str, t.Any]) -> list[list[str]]:
    """A column for each server."""
    lines: dict[str, list[str]] = {}
    for name in filter(results.__contains__, SERVERS):
        result = results[name]
        samples, about = settled(result["samples"]), result["about"]
        first, last = samples[0], samples[-1]
        for title, text in (
            ("server", SERVERS[name].title),
            ("build", "compiled" if about["compiled"] else "pure"),
            ("messages", f"{last['messages']:,}"),
            ("connections", f"{result['connections']:,}"),
            ("of which left otherwise than by closing", f"{rude(result):,}"),
            ("broadcasts delivered", f"{result['deliveries']:,}"),
            ("minutes", f"{last['seconds'] / 60:.1f}"),
            ("resident memory after a fifth, KiB", f"{first['rss_kib']:,}"),
            ("at the end, KiB", f"{last['rss_kib']:,}"),
            ("slope, KiB for 1,000 messages", f"{slope(samples):+.3f}"),
            *(
                (f"{title}, after a fifth and at the end", f"{first[count]}, {last[count]}")
                for title, count in (
                    ("descriptors", "descriptors"),
                    ("threads", "threads"),
                    ("greenlets", "greenlets"),
                    ("objects of the package", "ours"),
                )
            ),
            ("date, commit", f"{about['date']}, {about['commit']}"),
        ):
            lines.setdefault(title, [title]).append(text)
    return list(lines.values())


def rude(result: dict[str, t.Any]) -> int:
    return sum(result["manners"].values()) - result["manners"]["close"]


def draw(results: dict[str, t.Any]) -> None:
    """Draw memory over messages into each of CHARTS.

    :raises ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same results make the same file, so that git shows a change only if there is one.
    matplotlib.rcParams["svg.hashsalt"] = "soak"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for name, color in zip(SERVERS, ("#0f766e", "#b45309"), strict=True):
        if name in results:
            samples = results[name]["samples"]
            x = [sample["messages"] / MILLION for sample in samples]
            y = [sample["rss_kib"] / 1024 for sample in samples]
            axis.plot(x, y, color=color, marker=".", label=SERVERS[name].title)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("messages, millions")
    axis.set_ylabel("resident memory, MiB")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    for file in CHARTS:
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, dpi=80, metadata=metadata)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())

"""What is made of the measured cells: medians, ratios, tables and the chart.

Knows results as ``run.py`` writes them. Knows no process.
"""

from __future__ import annotations

import csv
import pathlib
import statistics
import typing as t

from measure import Server
from measure import SERVERS
from measure import Work
from measure import WORKS

#: One cell of one round: server, work, round, and value with its particulars or error.
Row = dict[str, t.Any]
Table = list[list[str]]

NO_FIGURE = "—"
#: Above this the load generator is what was measured.
SATURATED = 0.95
#: Above this share of the cores other programs disturb what is measured.
TOO_BUSY = 0.1


class Cell(t.NamedTuple):
    """What the rounds say of one server at one work.

    :param spread: half of what lies between the lowest and the highest, as a part of the
        median; None if there was one round.
    :param p99_us: the median of the rounds' 99th percentiles.
    :param saturated: the load generator had no time left, so the server can do more.
    """

    median: float
    spread: float | None
    p99_us: float | None
    saturated: bool


def summarize(rows: t.Iterable[Row]) -> dict[tuple[str, str], Cell]:
    """The cells by server and work; those without any figure are left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "value" in row:
            groups.setdefault((row["server"], row["work"]), []).append(row)
    return {key: _summarize_cell(group) for key, group in groups.items()}


def _summarize_cell(rows: list[Row]) -> Cell:
    values = [row["value"] for row in rows]
    median = statistics.median(values)
    latencies = [row["p99_us"] for row in rows if "p99_us" in row]
    return Cell(
        median,
        (max(values) - min(values)) / 2 / median if len(values) > 1 and median else None,
        statistics.median(latencies) if latencies else None,
        statistics.median(row.get("load_cpu", 0) for row in rows) >= SATURATED,
    )


def ratios(rows: t.Iterable[Row], peer: str) -> dict[tuple[str, str], float]:
    """How many times the peer's figure each server has.

    Each round is divided by the peer's figure of that round, then the median is taken: what
    slows the machine down for a while slows both.
    """
    rows = [row for row in rows if "value" in row]
    base = {(row["work"], row["round"]): row["value"] for row in rows if row["server"] == peer}
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if divisor := base.get((row["work"], row["round"])):
            key = row["server"], row["work"]
            groups.setdefault(key, []).append(row["value"] / divisor)
    return {key: statistics.median(group) for key, group in groups.items()}


# Tables


def table(rows: list[Row], cell_text: t.Callable[[str, str], str]) -> Table:
    """A header, and a line for each server that *rows* have, in the order of ``SERVERS``.

    :param cell_text: gives the text for a server and a work.
    """
    works = works_of(rows)
    lines = [["server", *works]]
    for name in servers_of(rows):
        lines.append([SERVERS[name].title, *(cell_text(name, work) for work in works)])
    return lines


def value_table(rows: list[Row]) -> Table:
    """The medians, and their spread if there was more than one round."""
    cells = summarize(rows)

    def text(server: str, work: str) -> str:
        cell = cells.get((server, work))
        if cell is None:
            return NO_FIGURE
        spread = "" if cell.spread is None else f" ±{cell.spread:.0%}"
        return ("≥ " if cell.saturated else "") + number(cell.median) + spread

    return table(rows, text)


def ratio_table(rows: list[Row], peer: str) -> Table:
    """The ratios to *peer*, which is 1.00 itself."""
    found = ratios(rows, peer)

    def text(server: str, work: str) -> str:
        ratio = found.get((server, work))
        return NO_FIGURE if ratio is None else f"{ratio:.2f}"

    return table(rows, text)


def latency_table(rows: list[Row]) -> Table:
    """The 99th percentiles in milliseconds."""
    cells = summarize(rows)

    def text(server: str, work: str) -> str:
        cell = cells.get((server, work))
        return NO_FIGURE if cell is None or cell.p99_us is None else number(cell.p99_us / 1e3)

    return table(rows, text)


def about_table(results: dict[str, t.Any]) -> Table:
    """When, where and of what the results are."""
    about = results["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        ["date", about["date"]],
        ["commit", about["commit"]],
        ["compiled core", {True: "in use", False: "not built"}.get(about["compiled"], "none")],
        ["machine", f"{about['cpu']}, {about['cores']} cores, {about['system']}"],
        ["Python", about["python"]],
        ["versions", versions],
        ["rounds", f"{about['rounds']} of {about['seconds']:g} s a cell"],
        ["other programs on the two cores", others_text(results["rows"])],
    ]


def others_text(rows: list[Row]) -> str:
    """What other programs took of the cores meanwhile."""
    shares = [row["others"] for row in rows if "others" in row] or [0.0]
    median = statistics.median(shares)
    verdict = ": too much, these figures are worth little" if median > TOO_BUSY else ""
    return f"{median:.0%} of their time, at most {max(shares):.0%}{verdict}"


def number(value: float) -> str:
    """Three digits or more: ``0.08``, ``9.7``, ``134``, ``48,213``."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def aligned(lines: Table) -> str:
    """A table for the terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    )


def servers_of(rows: list[Row]) -> list[str]:
    """The servers with any figure, in the order of ``SERVERS``."""
    found = {row["server"] for row in rows if "value" in row}
    return [name for name in SERVERS if name in found]


def works_of(rows: list[Row]) -> list[str]:
    """The works with any figure, in the order of ``WORKS``."""
    found = {row["work"] for row in rows if "value" in row}
    return [name for name in WORKS if name in found]


# Files


def write_tables(results: dict[str, t.Any], docs: pathlib.Path) -> None:
    """Write the tables that ``docs/benchmarks.rst`` shows."""
    rows, peer = results["rows"], results["about"]["peer"]
    for name, lines in (
        ("results", value_table(rows)),
        ("ratios", ratio_table(rows, peer)),
        ("latency", latency_table([row for row in rows if "p99_us" in row])),
        ("about", about_table(results)),
    ):
        with (docs / f"benchmarks-{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)


def draw(results: dict[str, t.Any], files: t.Iterable[pathlib.Path]) -> None:
    """Draw the chart into each of *files*: bars, a panel for each work.

    :raises ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same results make the same file, so that git shows a change only if there is one.
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    rows = results["rows"]
    cells, works = summarize(rows), works_of(rows)
    columns = 2
    lines = -(-len(works) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(12, 3.4 * lines), squeeze=False, layout="constrained"
    )
    for axis, work in zip(axes.flat, works, strict=False):
        bars = [(name, cells[name, work]) for name in servers_of(rows) if (name, work) in cells]
        _draw_panel(axis, WORKS[work], [(SERVERS[name], cell) for name, cell in bars])
        # Bars of the same height everywhere, the first one above.
        axis.set_ylim(len(servers_of(rows)) - 0.4, -0.6)
    for axis in axes.flat[len(works) :]:
        axis.set_visible(False)
    about = results["about"]
    # With the figures goes what they are worth.
    figure.supxlabel(
        f"{about['date']}, {about['cpu']}, {about['rounds']} of {about['seconds']:g} s a cell. "
        f"Other programs on the two cores: {others_text(rows)}",
        fontsize=8,
    )
    for file in files:
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, dpi=80, metadata=metadata)
    pyplot.close(figure)


def _draw_panel(axis: t.Any, work: Work, bars: list[tuple[Server, Cell]]) -> None:
    values = [cell.median for _, cell in bars]
    spreads = [cell.median * (cell.spread or 0) for _, cell in bars]
    colors = ["#0f766e" if server.ours else "#a8b3bd" for server, _ in bars]
    names = [server.title for server, _ in bars]
    errors = {"xerr": spreads, "error_kw": {"elinewidth": 0.8}} if any(spreads) else {}
    axis.barh(range(len(bars)), values, color=colors, **errors)
    for place, (value, spread) in enumerate(zip(values, spreads, strict=True)):
        axis.text(value + spread, place, f" {number(value)}", va="center", fontsize=7)
    axis.set_yticks(range(len(bars)), names, fontsize=7)
    axis.margins(x=0.14)
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    direction = "less" if work.lower_is_better else "more"
    axis.set_title(f"{work.title}\n{work.unit}, {direction} is better", fontsize=9)

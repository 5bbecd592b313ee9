"""A benchmark's result: one document, shown as a table for people and one JSON line, last, for machines."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stentor
from stentor.bench.level import Level
from stentor.bench.machine import Machine, commit, this_machine, versions
from stentor.errors import ConfigError

# Column: heading, key in the row. The keys are those of `Level.row`.
COLUMNS = {
    "phase": "phase",
    "offered req/s": "offered_per_s",
    "refused": "refused",
    "refused max ms": "refused_max_ms",
    "concurrency": "concurrency",
    "audio s/s": "audio_s_per_s",
    "req/s": "requests_per_s",
    "TTFA p50 ms": "ttfa_p50_ms",
    "TTFA p95 ms": "ttfa_p95_ms",
    "ITL p50 ms": "itl_p50_ms",
    "RTF p50": "rtf_p50",
    "underruns": "underruns",
    "errors": "errors",
    "x plain": "ratio",
    "load": "load",
}


def document(
    benchmark: str, model: str, levels: Sequence[Level], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The result with everything that its figures depend on."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": model,
        "stentor": stentor.__version__,
        "commit": commit(),
        "machine": _describe(this_machine()),
        "versions": versions(),
        "settings": dict(settings),
        "rows": [level.row() for level in levels],
    }


def add_comparison(result: dict[str, Any], plain: Level) -> None:
    """Put the plain loop's row beside the others, and how many times as much audio each level makes."""
    row = plain.row()
    result["plain"] = row
    for level in result["rows"]:
        level["ratio"] = round(level["audio_s_per_s"] / row["audio_s_per_s"], 2)


def headline(result: Mapping[str, Any]) -> str:
    """What was measured where, in one or two lines."""
    software = f"stentor {result['stentor']} ({result['commit']})"
    lines = [f"{result['benchmark']} of {result['model']} on {hardware(result)}, {software}"]
    if "plain" in result:
        rate = _cell(result["plain"]["audio_s_per_s"])
        lines.append(f"plain loop, one request at a time: {rate} audio s/s")
    return "\n".join(lines)


def hardware(result: Mapping[str, Any]) -> str:
    """The cards, or the processor where there are none."""
    machine = result["machine"]
    return ", ".join(machine["gpus"]) or f"{machine['processor']}, {machine['cores']} cores"


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> str:
    """The rows as a Markdown table, right-aligned, columns that are empty throughout left out."""
    shown = {
        heading: key
        for heading, key in (columns or COLUMNS).items()
        if any(row.get(key) is not None for row in rows)
    }
    cells = [[_cell(row.get(key)) for key in shown.values()] for row in rows]
    widths = [max(len(line[i]) for line in [list(shown), *cells]) for i in range(len(shown))]
    lines = [_line(shown, widths), "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"]
    return "\n".join(lines + [_line(line, widths) for line in cells])


def publish(result: Mapping[str, Any], path: Path | None) -> None:
    """Show the result (its `columns`, if it names them), and save it where wanted.

    In this order, so that no folder costs a measurement: JSON is the last line of stdout, and where it was
    saved is told on stderr. Raises ConfigError as `save` does.
    """
    print(headline(result))
    print(table(result["rows"], result.get("columns")))
    print(json.dumps(result))
    if path is not None:
        print(f"saved as {save(result, path)}", file=sys.stderr)


def save(result: Mapping[str, Any], path: Path) -> Path:
    """Write the result; a folder (a path without `.json`) gets a file named by date, benchmark and the rest.

    Raises:
        ConfigError: it cannot be written.
    """
    if path.suffix != ".json":
        path = path / file_name(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot save to {str(path)!r}: {error.strerror}") from None
    return path


def file_name(result: Mapping[str, Any]) -> str:
    """`2026-11-21t18-05-09z-serve-amd-epyc-stentor-tiny-0123abcd.json`."""
    parts = (
        result["date"],
        result["benchmark"],
        hardware(result).split(",")[0],
        Path(result["model"]).name,
        result["commit"],
    )
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-").lower() for part in parts) + ".json"


def _describe(machine: Machine) -> dict[str, Any]:
    """What stays the same from run to run; the load is in the rows."""
    facts = asdict(machine)
    del facts["free_memory_bytes"]
    return facts


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def _line(cells: Any, widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

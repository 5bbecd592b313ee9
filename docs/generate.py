"""Writes the pages that are made from code and results: settings, commands, HTTP fields, benchmark tables.

`make docs` runs it; a test fails when a page on disk is not what this would write.
"""

import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import typer
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from stentor.bench import report
from stentor.cli.main import app
from stentor.cli.options import describe_default
from stentor.config import Config, Setting, settings
from stentor.request import ModelInfo, SamplingParams
from stentor.server.app import create_app
from stentor.server.bodies import ReferenceBody, SpeechBody
from stentor.server.consents import ConsentBody
from stentor.server.enrolling import VoiceBody
from stentor.server.generate import GenerateBody
from stentor.server.metrics import STAGE_GAUGES, Metrics
from stentor.voices import VoiceStore

EMPTY_STATS: dict[str, dict[str, Any]] = {"requests": {}, "links": {}, "stages": {}, "workers": {}}
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

_MADE = "<!-- Written by docs/generate.py (`make docs`); edit the code instead. -->"
# What, aim, and where the figure stands: benchmark, key, batch size or concurrency.
_AIMS = (
    ("decode step at batch 1, ms", "2.35", "roofline", "step_ms", 1),
    ("its share of the bandwidth floor", "0.8", "roofline", "share", 1),
    ("engine alone at batch 16, audio s/s", "240 with the vocoder", "roofline", "audio_s_per_s", 16),
    ("engine alone at batch 64, audio s/s", "800 with the vocoder", "roofline", "audio_s_per_s", 64),
    ("engine alone at batch 256, audio s/s", "1,500 with the vocoder", "roofline", "audio_s_per_s", 256),
    ("host time of a step at batch 256, ms", "half of the step", "roofline", "host_ms", 256),
    ("fp8 at batch 1, RTF", "0.035", "roofline-fp8", "rtf", 1),
    ("GPU busy in a step at batch 64", "0.9", "profile", "share", 64),
    ("over HTTP with the vocoder at concurrency 16, audio s/s", "240", "latency", "audio_s_per_s", 16),
    ("over HTTP with the vocoder at concurrency 64, audio s/s", "800", "latency", "audio_s_per_s", 64),
    ("TTFA p50 over HTTP at concurrency 1, ms", "60", "latency", "ttfa_p50_ms", 1),
    ("TTFA p95 over HTTP at concurrency 64, ms", "150", "latency", "ttfa_p95_ms", 64),
    ("underruns at concurrency 64", "0", "latency", "underruns", 64),
)
_SETTINGS_PANEL = "Settings: "


def pages() -> dict[Path, str]:
    """Every generated page with the text it should have."""
    results = load_results()
    reference = ROOT / "docs" / "reference"
    http, readme = reference / "http-api.md", ROOT / "README.md"
    metrics = reference / "metrics.md"
    return {
        reference / "config.md": config_page(),
        reference / "cli.md": cli_page(),
        http: http_page(http.read_text()),
        metrics: metrics_page(metrics.read_text()),
        ROOT / "BENCHMARKS.md": benchmarks_page(results),
        readme: fill(readme.read_text(), "benchmark table", server_table(results)),
    }


def config_page() -> str:
    """One table per section of `Config`."""
    lines = ["# Settings", "", _MADE, ""]
    lines += [
        "Each setting is a flag of the commands that use its section and a `STENTOR_*` variable. A flag wins "
        "over its variable, a variable over the default. From Python: `stentor.Config`."
    ]
    by_section: dict[str, list[Setting]] = {}
    for item in settings():
        by_section.setdefault(item.section, []).append(item)
    for section, items in by_section.items():
        about = (type(getattr(Config(), section)).__doc__ or "").strip()
        lines += [
            "",
            f"## {section}",
            "",
            about,
            "",
            "| flag | variable | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{item.flag}` | `{item.environment_name}` | {describe_default(item.default)} | {item.help} |"
            for item in items
        ]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """One section per command."""
    lines = ["# Commands", "", _MADE, ""]
    lines += [
        "Data goes to stdout, everything else to stderr. The exit status is 0, or 1 with one line that says "
        "what is wrong, or 2 for a command line that cannot be read."
    ]
    for name, command in _commands("stentor", typer.main.get_command(app)):
        lines += ["", f"## {name}", "", (command.help or "").strip(), ""]
        lines += list(_parameters(command))
    return "\n".join(lines) + "\n"


def _commands(name: str, command: Any) -> Iterable[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child_name, child in children.items():
        yield from _commands(f"{name} {child_name}", child)


def _parameters(command: Any) -> Iterable[str]:
    yield "| argument or flag | meaning |"
    yield "|---|---|"
    sections: list[str] = []
    for parameter in command.params:
        panel = getattr(parameter, "rich_help_panel", None) or ""
        if panel.startswith(_SETTINGS_PANEL):
            sections.append(panel.removeprefix(_SETTINGS_PANEL))
            continue
        if parameter.name == "help":
            continue
        names = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
        shown = (
            ", ".join(f"`{flag}`" for flag in names) or f"`{(parameter.metavar or parameter.name).upper()}`"
        )
        yield f"| {shown} | {(parameter.help or '').strip()} |"
    if sections:
        named = ", ".join(f"[{section}](config.md#{section})" for section in dict.fromkeys(sections))
        yield ""
        yield f"And the flags of the settings {named}."


def load_results() -> list[dict[str, Any]]:
    """All saved results, oldest first; the first ones have a date without a time."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return sorted(results, key=lambda result: result["date"])


def latest(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest result of each benchmark, model and machine."""
    newest = {(r["benchmark"], r["model"], report.hardware(r)): r for r in results}
    return list(newest.values())


def benchmarks_page(results: list[dict[str, Any]]) -> str:
    """Caveats first, then the newest table of each benchmark, then how to make them."""
    lines = [
        "# Benchmarks",
        "",
        _MADE,
        "",
        (ROOT / "benchmarks" / "README.md").read_text().split("\n", 2)[2].strip(),
    ]
    lines += ["", "## The 4B model on a GPU", "", gpu_table(results)]
    for result in latest(results):
        made = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        lines += ["", f"## {report.headline(result).splitlines()[0]}", ""]
        lines += [*report.headline(result).splitlines()[1:], *([""] if "plain" in result else [])]
        lines += [
            report.table(result["rows"], result.get("columns")),
            "",
            f"{result['date'][:10]}; {made}; settings {json.dumps(result['settings'])}.",
        ]
    return "\n".join(lines) + "\n"


def gpu_table(results: list[dict[str, Any]]) -> str:
    """The aims for one H200 and what was measured; no number is guessed."""
    measured = {result["benchmark"]: result for result in results if result["machine"]["gpus"]}
    lines = [
        "Bfloat16, random weights of the real shape, by `benchmarks/gpu_all.sh`; the aims are for one H200.",
        "",
        "| what | aim | measured |",
        "|---|---|---|",
    ]
    for what, aim, benchmark, key, level in _AIMS:
        rows = measured.get(benchmark, {"rows": []})["rows"]
        found = [row[key] for row in rows if row.get("batch", row.get("concurrency")) == level]
        lines.append(f"| {what} | {aim} | {found[0] if found else 'not measured'} |")
    return "\n".join(lines)


def server_table(results: list[dict[str, Any]]) -> str:
    """The newest figures of a server."""
    served = [result for result in results if result["benchmark"] == "serve"]
    if not served:
        return "None yet."
    return "\n\n".join([report.headline(served[-1]), report.table(served[-1]["rows"])])


def http_page(page: str) -> str:
    """The page with its tables of routes and fields as the server has them."""
    page = fill(page, "routes", routes_table())
    page = fill(page, "fields", fields_table(SpeechBody))
    page = fill(page, "reference fields", fields_table(ReferenceBody))
    page = fill(page, "generate fields", fields_table(GenerateBody))
    page = fill(page, "voice fields", fields_table(VoiceBody))
    return fill(page, "consent fields", fields_table(ConsentBody))


def _app() -> FastAPI:
    nothing = {"stats": dict, **dict.fromkeys(("alive", "restart", "when_passed"), lambda *_: None)}
    unused: Any = type("NoPipeline", (), nothing)()
    info = ModelInfo("", "", 24_000, 960, 8, 1024, (), 1, SamplingParams())
    return create_app(unused, info, VoiceStore(info, Config().reference), Config())


def websockets() -> list[str]:
    """The path of each WebSocket."""
    routes = iter_route_contexts(_app().routes)
    return [route.path for route in routes if isinstance(route.original_route, APIWebSocketRoute)]


def routes_table() -> str:
    """Each route with its summary."""
    paths = _app().openapi()["paths"]
    lines = ["| route | what it does |", "|---|---|"]
    for path, methods in paths.items():
        lines += [f"| `{method.upper()} {path}` | {route['summary']} |" for method, route in methods.items()]
    return "\n".join(lines)


def metrics_page(page: str) -> str:
    """The page with its tables as the server's metrics describe themselves."""
    page = fill(page, "request metrics", metrics_table())
    lines = ["| metric | meaning |", "|---|---|"]
    lines += [f"| `stentor_stage_{name}` | {about} |" for name, about in STAGE_GAUGES.items()]
    return fill(page, "stage gauges", "\n".join(lines))


def metrics_table() -> str:
    """Each metric of requests and streams, with its kind and labels."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in vars(Metrics(lambda: EMPTY_STATS)).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            labels = ", ".join(f"`{name}`" for name in metric._labelnames)
            lines.append(f"| `{family.name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines)


def fields_table(body: type[BaseModel]) -> str:
    """Each field of a body with its default."""
    lines = ["| field | default | meaning |", "|---|---|---|"]
    for name, field in body.model_fields.items():
        default = "required" if field.is_required() else json.dumps(field.default)
        lines.append(f"| `{name}` | {default} | {field.description}{_choices(field.annotation)} |")
    return "\n".join(lines)


def _choices(annotation: Any) -> str:
    """The values of a `Literal`, wherever in the annotation it stands."""
    if typing.get_origin(annotation) is Literal:
        return f" One of {', '.join(typing.get_args(annotation))}."
    return "".join(_choices(inner) for inner in typing.get_args(annotation))


def fill(page: str, name: str, content: str) -> str:
    """The page with what stands between its marks `<!-- name -->` and `<!-- end of name -->` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no marks {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> None:
    """Write the pages that changed."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

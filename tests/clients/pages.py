"""Knows how a page of the docs is carried out: its blocks, in order, as a reader would type them.

| block | what is done with it |
|---|---|
| `python`, `js` | run, in the environment that the page names (`<!-- environment: livekit -->`) or in ours |
| `sh` | run by bash; a server in it goes on in the background until the page ends |
| `yaml`, `toml`, `json` that open with `# NAME` | written to that file |
| any, after `<!-- not run: REASON -->` | left out, but `check`ed as far as that goes |

A page speaks to ports of its own choice; each of them becomes a free one, and 8000 the tests' server. What it
installs has to be in its environment. What it plays is kept as a file.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from typer.core import TyperGroup as Group
from typer.main import get_command

from stentor.bench.local_server import LocalServer
from stentor.cli.main import app
from tests.clients.conftest import PROGRAM_TIMEOUT_S, command_of, environment_of
from tests.clients.environments import environments

ROOT = Path(__file__).parents[2]
SERVER_PORT = 8000
# How a file begins that is what its name says; raw samples have no beginning of their own.
AUDIO = {
    ".wav": rb"RIFF",
    ".mp3": rb"ID3|\xff[\xf2-\xf7\xfa-\xff]",
    ".flac": rb"fLaC",
    ".opus": rb"OggS",
    ".ogg": rb"OggS",
    ".aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    ".pcm": rb"(?!RIFF|ID3|fLaC|OggS)",
}
RUN = {"python", "js", "sh"}
FILES = {"yaml", "toml", "json"}

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_PORT = re.compile(r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0):(\d{4,5})\b|--(?:port|wyoming)[= ](\d{4,5})\b")

# Programs that go on until they are stopped.
_SERVE = re.compile(r"(?P<variables>(?:[A-Z_]+=\S+\s+)*)stentor serve\b")
_SERVERS = ("litellm --config", "python -m wyoming_openai")

# What plays sound on a reader's machine; here it keeps the sound.
_PLAYER = """#!/bin/sh
cat > "$PLAYED/$(basename "$0").$FORMAT"
"""


@dataclass(frozen=True)
class Block:
    """One block of a page; `skipped` says why it is not run."""

    language: str
    text: str
    skipped: str | None

    @property
    def file_name(self) -> str | None:
        """The file that it is to be written to."""
        name = re.match(r"(?:#|//) ([\w-][\w./-]*)\n", self.text)
        return name[1] if name and self.language in FILES else None


@dataclass(frozen=True)
class Page:
    """A page of the docs."""

    path: Path
    environment: str | None
    blocks: tuple[Block, ...]

    @property
    def is_run(self) -> bool:
        return any(block.language in RUN and not block.skipped for block in self.blocks)

    @property
    def needs(self) -> str | None:
        """The environment without which it cannot be carried out."""
        node = any(block.language == "js" and not block.skipped for block in self.blocks)
        return self.environment or ("node" if node else None)


def read_page(path: Path) -> Page:
    text = path.read_text()
    environment = re.search(r"<!-- environment: ([\w-]+) -->", text)
    blocks = tuple(
        Block(found["language"], found["text"], found["reason"]) for found in _BLOCK.finditer(text)
    )
    return Page(path, environment[1] if environment else None, blocks)


@dataclass
class Reader:
    """Carries out one page in a folder; a context manager that ends the servers that the page starts."""

    page: Page
    folder: Path
    server_url: str
    opened: ExitStack = field(default_factory=ExitStack)
    ports: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Reader":
        self.ports[str(SERVER_PORT)] = self.server_url.rsplit(":", 1)[1]
        for block in self.page.blocks:
            for port in filter(None, (a or b for a, b in _PORT.findall(block.text))):
                self.ports.setdefault(port, str(free_port()))
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def carry_out(self) -> None:
        """All blocks; raises AssertionError with what a block wrote if it fails."""
        for number, block in enumerate(self.page.blocks):
            if block.skipped:
                continue
            text = self._with_ports(block.text)
            if block.file_name:
                (self.folder / block.file_name).write_text(text)
            elif block.language == "python":
                self._run([*self._python(), self._program(f"block{number}.py", text)])
            elif block.language == "js":
                self._run([*command_of("node"), self._program(f"block{number}.mjs", text)])
            elif block.language == "sh":
                self._shell(text)

    def audio(self) -> list[Path]:
        """The files with sound that are there now, each in the format that its name says."""
        found = sorted(path for path in self.folder.rglob("*") if path.suffix in AUDIO)
        for path in found:
            assert re.match(AUDIO[path.suffix], path.read_bytes()), f"{path.name} is no {path.suffix} file"
        return found

    def _with_ports(self, text: str) -> str:
        for written, real in self.ports.items():
            text = re.sub(rf"(?<![\w.]){written}(?![\w.])", real, text)
        return text

    def _python(self) -> list[str]:
        return command_of(self.page.environment) if self.page.environment else [sys.executable]

    def _program(self, name: str, text: str) -> str:
        # Node looks for packages beside the program.
        folder = environments()["node"].folder if name.endswith(".mjs") else self.folder
        path = folder / f"{self.page.path.stem}-{name}"
        path.write_text(text)
        return str(path)

    def _shell(self, text: str) -> None:
        text = text.replace("\\\n", " ")
        rest = []
        for line in text.splitlines():
            command = line.partition(" #")[0].strip()
            if re.match(r"(pip|npm) install ", command):
                self._check_installed(command)
            elif serving := _SERVE.match(command):
                self._serve(serving["variables"], shlex.split(command[serving.end() :]))
            elif command.startswith(_SERVERS):
                self._start(command)
            else:
                rest.append(line)
        if "".join(rest).strip():
            self._run(["bash", "-euo", "pipefail", "-c", "\n".join(rest)])

    def _check_installed(self, command: str) -> None:
        wanted = {re.split(r"[\[<>=]", word)[0] for word in shlex.split(command)[2:] if word[0] != "-"}
        name = self.page.needs
        known = environments()[name].packages() if name else {"openai", "stentor"}
        assert wanted <= known, f"{command}: the environment {name} is made of {known}"

    def _serve(self, variables: str, arguments: list[str]) -> None:
        """A server of the page's own, if it gives it settings; where it listens is the tests' to say."""
        for flag in ("--port", "--host"):
            if flag in arguments:
                at = arguments.index(flag)
                del arguments[at : at + 2]
        arguments = [str(self.folder / word) if (self.folder / word).exists() else word for word in arguments]
        environment = dict(word.split("=", 1) for word in shlex.split(variables))
        if arguments or environment:
            server = LocalServer(arguments, environment=environment)
            self.ports[str(SERVER_PORT)] = self.opened.enter_context(server).url.rsplit(":", 1)[1]

    def _start(self, command: str) -> None:
        log = self.opened.enter_context((self.folder / "server.log").open("w+"))
        process = subprocess.Popen(
            shlex.split(command), cwd=self.folder, env=self._environment(), stdout=log, stderr=log
        )
        self.opened.callback(_stop, process)
        port = int(next(a or b for a, b in _PORT.findall(command)))
        deadline_s = time.monotonic() + PROGRAM_TIMEOUT_S
        while not accepts(port):
            log.seek(0)
            assert process.poll() is None, f"{command} has ended:\n{log.read()[-4000:]}"
            assert time.monotonic() < deadline_s, f"{command} does not listen:\n{log.read()[-4000:]}"
            time.sleep(0.2)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PROGRAM_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    def _environment(self) -> dict[str, str]:
        players = self.folder / "players"
        players.mkdir(exist_ok=True)
        for name, format in (("aplay", "pcm"), ("ffplay", "mp3")):
            (players / name).write_text(_PLAYER.replace("$FORMAT", format))
            (players / name).chmod(0o755)
        bins = [players, Path(sys.executable).parent]
        if self.page.environment:
            bins.insert(1, environments()[self.page.environment].folder / "bin")
        path = os.pathsep.join([*map(str, bins), os.environ["PATH"]])
        return environment_of() | {"PATH": path, "PLAYED": str(self.folder)}


def check(block: Block) -> None:
    """What can be said of a block without running it; raises AssertionError."""
    text = block.text
    if block.language == "sh":
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        for named in re.findall(r"(?<![\w/.])deploy/[\w./-]+", text):
            assert (ROOT / named).exists(), f"there is no {named}"
        for line in text.replace("\\\n", " ").splitlines():
            _check_command(line.partition(" #")[0])
    elif block.language == "python":
        compile(text, "block", "exec")
    elif block.language == "toml":
        tomllib.loads(text)
    elif block.language in ("yaml", "json"):
        assert yaml.safe_load(text)
    elif block.language == "nginx":
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        assert text.count("{") == text.count("}")
        assert all(line.endswith((";", "{", "}")) for line in lines if line), text
    else:
        assert block.language == "js", f"nobody knows how to check {block.language}"


def _check_command(line: str) -> None:
    """Every `stentor` command of a line is one, and has these flags."""
    for command in re.findall(r"(?:^|[|;&(] *|[A-Z]=\S+ )stentor ([^|;&)]*)", line.strip()):
        words, known = shlex.split(command), get_command(app)
        while words and isinstance(known, Group):
            assert words[0] in known.commands, f"there is no command {words[0]}"
            known = known.commands[words.pop(0)]
        flags = {flag for parameter in known.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert given <= flags, f"stentor {command}: there is no {given - flags}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pages(folder: str) -> Iterator[Page]:
    """The pages of a folder of the docs."""
    for path in sorted((ROOT / "docs" / folder).glob("*.md")):
        yield read_page(path)

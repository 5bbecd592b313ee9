"""Knows the environments of the client libraries: what each needs, how it is made, and what runs in it.

`python -m tests.clients.environments [NAME...]` makes what is missing or out of date, below `.clients/`.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDS = Path(__file__).parent / "environments"
TIMEOUT_S = 1_200


@dataclass(frozen=True)
class Environment:
    """Somewhere to run programs of one client library; made from `environments/NAME.txt` or `.json`."""

    name: str
    needs: Path

    @property
    def folder(self) -> Path:
        return ROOT / ".clients" / self.name

    @property
    def is_node(self) -> bool:
        return self.needs.suffix == ".json"

    @property
    def is_current(self) -> bool:
        stamp = self.folder / "made-from"
        return stamp.exists() and stamp.read_text() == self._digest()

    def command(self) -> list[str]:
        """What runs a program in it."""
        if self.is_node:
            return ["node"]
        return [str(self.folder / "bin" / "python")]

    def packages(self) -> set[str]:
        """The packages it asks for, by name."""
        if self.is_node:
            return set(json.loads(self.needs.read_text())["dependencies"])
        lines = [line for line in self.needs.read_text().splitlines() if not line.startswith("#")]
        return {re.split(r"[\[<>=! ]", line)[0] for line in lines if line}

    def missing(self) -> str | None:
        """Why it cannot be made on this machine, or None."""
        if self.is_node:
            return None if shutil.which("npm") else "npm is not installed"
        return None if self._python() else f"Python {self._wanted()} or newer is not installed"

    def make(self) -> None:
        """Make it anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.is_node:
            self.folder.mkdir(parents=True)
            shutil.copy(self.needs, self.folder / "package.json")
            _run(["npm", "install", "--silent", "--no-audit", "--no-fund"], self.folder)
        else:
            python = self._python()
            assert python is not None, "asked before"
            _run([python, "-m", "venv", str(self.folder)], ROOT)
            install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*self.command(), *install, "-r", str(self.needs)], ROOT)
            torch = list(self.folder.glob("lib/*/site-packages/torch"))
            assert not torch, f"{self.name} has pulled a second torch in: exclude what wants it"
        (self.folder / "made-from").write_text(self._digest())

    def _digest(self) -> str:
        return hashlib.sha256(self.needs.read_bytes()).hexdigest()

    def _wanted(self) -> str | None:
        found = re.search(r"# requires-python: (\S+)", self.needs.read_text())
        return found[1] if found else None

    def _python(self) -> str | None:
        """This interpreter, or the first newer one that the environment asks for."""
        wanted = self._wanted()
        if wanted is None or sys.version_info >= tuple(map(int, wanted.split("."))):
            return sys.executable
        for minor in range(int(wanted.split(".")[1]), 20):
            managed = map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
            for candidate in filter(None, [shutil.which(f"python3.{minor}"), *managed]):
                # A name on the path may be a shim without an interpreter behind it.
                if subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True).returncode == 0:
                    return candidate
        return None


def environments() -> dict[str, Environment]:
    """All of them, by name."""
    return {path.stem: Environment(path.stem, path) for path in sorted(NEEDS.iterdir())}


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=TIMEOUT_S)


def main(names: list[str]) -> None:
    """Make the named environments, or all."""
    known = environments()
    for name in names or known:
        environment = known[name]
        if environment.is_current:
            continue
        reason = environment.missing()
        if reason:
            print(f"{name}: not made, its tests are skipped: {reason}")
            continue
        print(f"making the environment {name} ...", flush=True)
        environment.make()


if __name__ == "__main__":
    main(sys.argv[1:])

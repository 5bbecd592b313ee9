"""Cold start: from a command to a finished file, and from `stentor serve` to the first audio over HTTP.

Each run is a fresh process; the file cache is warm. Prints a table, then one JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from stentor.bench.local_server import LocalServer
from stentor.bench.machine import commit, load_average, this_machine, versions

TEXT = "Hello, how are you?"


def say(folder: Path) -> float:
    """Seconds of one `stentor say`."""
    command = [sys.executable, "-m", "stentor", "say", TEXT, "-o", str(folder / "say.wav"), "--seed", "1"]
    began_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began_s


def serve() -> tuple[float, float]:
    """Seconds until `stentor serve` is ready, and until the first audio of a first streamed request."""
    began_s = time.perf_counter()
    with LocalServer() as server:
        ready_s = time.perf_counter() - began_s
        body = json.dumps({"input": TEXT, "seed": 1, "stream": True, "response_format": "pcm"}).encode()
        request = urllib.request.Request(
            f"{server.url}/v1/audio/speech", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            response.read1(1)
            first_s = time.perf_counter() - began_s
            response.read()
    return ready_s, first_s


def main() -> None:
    """Run each a few times; the medians go into the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    load_before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        say_s = [say(Path(folder)) for _ in range(runs)]
    serve_s = [serve() for _ in range(runs)]
    rows = {
        "stentor say, to the finished file": say_s,
        "stentor serve, to ready": [ready_s for ready_s, _ in serve_s],
        "stentor serve, to the first audio": [first_s for _, first_s in serve_s],
    }
    print(f"{'':36}  median s   min s   max s")
    for name, seconds in rows.items():
        print(f"{name:36}  {statistics.median(seconds):8.2f}  {min(seconds):6.2f}  {max(seconds):6.2f}")
    machine = this_machine()
    print(
        json.dumps(
            {
                "benchmark": "cold_start",
                "seconds": rows,
                "load": [load_before, load_average()],
                "processor": machine.processor,
                "cores": machine.cores,
                "versions": versions(),
                "commit": commit(),
            }
        )
    )


if __name__ == "__main__":
    main()

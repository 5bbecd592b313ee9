"""Both ends of a chain on another machine, over the loopback: a worker, and a pipeline in front."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stentor.config import PipelineConfig
from stentor.pipeline.pipeline import Pipeline
from stentor.pipeline.remote.messages import Remote
from stentor.pipeline.remote.server import ChainServer
from stentor.request import ModelInfo, SamplingParams
from tests.pipeline import fakes

ROOT = Path(__file__).parents[3]
INFO = ModelInfo("fake", "fake", 24_000, 960, 8, 1026, (), 4096, SamplingParams())
LOOPBACK = "tcp://127.0.0.1:0"
# A worker that is a process of its own, so that it can be killed; says where it listens.
PROCESS = """
import sys
from stentor.config import PipelineConfig
from stentor.pipeline.remote.server import ChainServer
from tests.pipeline import fakes
from tests.pipeline.remote.ends import INFO
server = ChainServer(fakes.chain(float(sys.argv[2])), PipelineConfig(workers="thread"), INFO, sys.argv[1])
print(server.address, flush=True)
server.run()
"""


@contextmanager
def serving(step_s: float = 0.0, **settings: Any) -> Iterator[ChainServer]:
    """A chain that is served on a thread of this process."""
    settings = {"workers": "thread", **settings}
    server = ChainServer(fakes.chain(step_s), PipelineConfig(**settings), INFO, LOOPBACK)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop(0.0)
        thread.join()


@contextmanager
def process(address: str = LOOPBACK, step_s: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", PROCESS, address, str(step_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


@contextmanager
def front(*addresses: str, secret: str = "", info: ModelInfo = INFO, **settings: Any) -> Iterator[Pipeline]:
    """A pipeline all of whose chains are elsewhere."""
    first, *others = [Remote(address, info, secret) for address in addresses]
    pipeline = Pipeline(first, PipelineConfig(**settings), others)
    pipeline.start()
    try:
        yield pipeline
    finally:
        pipeline.close()

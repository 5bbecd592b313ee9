"""Readers that a server must survive: who take the first bytes and vanish, and who never read on."""

import json
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# So little fits into the reader's buffer that the server soon feels that he does not read.
_SMALL_BUFFER = 4096
_TIMEOUT_S = 60.0


@contextmanager
def asking(address: tuple[str, int], body: dict[str, object]) -> Iterator[socket.socket]:
    """A connection on which a streamed request was sent; it is closed as rudely as possible."""
    data = json.dumps(body).encode()
    head = "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        connection.sendall(head.encode() + data)
        yield connection
        # A reset instead of a farewell.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wave(address: tuple[str, int], body: dict[str, object], count: int, seed: int) -> int:
    """So many readers at the same time, who leave without a word, some before, some amid, some not reading.

    Gives the number of those who were being served when they left.
    """
    dice = random.Random(seed)
    served = 0
    with ExitStack() as opened:
        readers = [opened.enter_context(asking(address, body)) for _ in range(count)]
        for reader in readers:
            if dice.random() < 0.25:
                continue  # Leaves before there is an answer.
            answer = reader.recv(16)
            served += answer.startswith(b"HTTP/1.1 200")
            if dice.random() < 0.5:
                reader.recv(2048)
    return served

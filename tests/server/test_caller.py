"""Laws of the caller: whatever runs on behalf of a connection knows whose it is, and nobody else's."""

import asyncio

from stentor.server.caller import ANYBODY, Caller, current, enter
from stentor.server.keys import Key


def test_outside_of_a_connection_it_is_anybody() -> None:
    assert current().key == ANYBODY


def test_a_task_started_for_a_caller_belongs_to_it_and_neighbours_do_not() -> None:
    async def name() -> str:
        return current().key.name

    async def connection(key: str) -> str:
        caller = Caller("id")
        enter(caller)
        caller.key = Key(key, b"")
        await asyncio.sleep(0)
        return await asyncio.create_task(name())

    async def run() -> list[str]:
        return list(await asyncio.gather(connection("alice"), connection("bob"), name()))

    assert asyncio.run(run()) == ["alice", "bob", ""]

"""Knows what an operator may ask of a running server; these routes exist only where they are enabled.

A key with `admin = true` opens them, and no other does.
"""

import logging
import time
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

import stentor
from stentor.errors import ForbiddenError, OverloadedError
from stentor.server.admission import Admission
from stentor.server.caller import current

log = logging.getLogger(__name__)


class LogLevelBody(BaseModel):
    """How much is logged from now on."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["debug", "info", "warning", "error"] = Field(description="The level of the server's log.")


def router(admission: Admission) -> APIRouter:
    """The routes of administration."""
    routes = APIRouter(prefix="/v1/admin", dependencies=[Depends(_admin_only)])
    began_s = time.monotonic()

    @routes.get("/status", summary="Requests, stages, links and workers, as they are now.")
    async def status() -> dict[str, Any]:
        return {
            "version": stentor.__version__,
            "uptime_s": round(time.monotonic() - began_s, 1),
            "ready": admission.ready(),
            "draining": admission.draining,
            "log_level": logging.getLevelName(logging.getLogger().level).lower(),
            **admission.stats(),
        }

    @routes.post("/drain", summary="Take no new speech, and be not ready, until told otherwise.")
    async def drain() -> dict[str, Any]:
        _note("drain")
        admission.draining = True
        return {"draining": True, "open": admission.num_open()}

    @routes.delete("/drain", summary="Take new speech again.")
    async def resume() -> dict[str, Any]:
        if admission.ending:
            raise OverloadedError("the server is about to end, so its drain stays")
        _note("end of the drain")
        admission.draining = False
        return {"draining": False, "open": admission.num_open()}

    @routes.post(
        "/workers/{name}/restart",
        status_code=202,
        summary="Start a worker process anew; what it holds fails with an error.",
    )
    async def restart(name: str) -> dict[str, Any]:
        admission.restart(name)
        _note(f"restart of worker {name}")
        return {"restarting": name}

    @routes.put("/log-level", summary="How much the server logs; its workers keep their level.")
    async def set_log_level(body: LogLevelBody) -> dict[str, Any]:
        _note(f"log level {body.level}")
        logging.getLogger().setLevel(body.level.upper())
        return {"log_level": body.level}

    return routes


async def _admin_only() -> None:
    if not current().key.admin:
        raise ForbiddenError("this API key may not administer the server: use one with admin = true")


def _note(what: str) -> None:
    log.warning("%s, as %s asked", what, current().key.name)

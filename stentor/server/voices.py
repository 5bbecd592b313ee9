"""Knows how the named voices are listed over HTTP."""

from fastapi import APIRouter

from stentor.voices import VoiceStore


def router(voices: VoiceStore) -> APIRouter:
    """The route of voices."""
    routes = APIRouter()

    @routes.get("/v1/audio/voices", summary="The voices that a request may name.")
    async def listing() -> dict[str, list[dict[str, str]]]:
        return {"voices": [{"id": name, "name": name} for name in voices.names()]}

    return routes

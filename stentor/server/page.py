"""Knows the page at `/`: one file without outside parts, and the policy that holds a browser to that."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

PAGE = Path(__file__).with_name("page.html")


def router() -> APIRouter:
    """The route of the page; the file is read once, here."""
    routes = APIRouter()
    page = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(page),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    @routes.get("/", include_in_schema=False)
    async def show() -> Response:
        return Response(page, media_type="text/html", headers=headers)

    return routes


def policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and style, by their hashes, and this server.

    Format: https://www.w3.org/TR/CSP3/. Recordings are heard before they are sent, hence `blob:`; the icon
    is written out in the page, hence `data:`.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "connect-src 'self'",
            "media-src blob:",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _hashes(page: str, element: str) -> str:
    """Each inline element of that name as a source expression."""
    contents = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests)

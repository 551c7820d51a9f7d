"""Problems: the answer to a failed request of a program, as RFC 9457 has it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"


def problem(status: int, reason: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Return the answer to a failed request; `reason` repeats `detail` for programs of earlier versions."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": reason, "reason": reason}
    return JSONResponse(content | more, status, headers, media_type=MEDIA_TYPE)

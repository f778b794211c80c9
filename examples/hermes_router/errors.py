"""Errors in the format of OpenAI's API."""

from __future__ import annotations

from starlette.responses import JSONResponse


class InvalidFieldError(ValueError):
    """Input that is refused: the field, its value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if len(shown) > 80:
            shown = f"{shown[:80]}..."
        super().__init__(f"{field} is {shown}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


def error_response(
    status: int, message: str, *, kind: str = "server_error", field: str | None = None
) -> JSONResponse:
    """Return a response with an OpenAI error object."""
    error = {"message": message, "type": kind, "param": field, "code": None}
    return JSONResponse({"error": error}, status)


def invalid_request(error: InvalidFieldError) -> JSONResponse:
    """Return a 400 with the reason."""
    return error_response(400, str(error), kind="invalid_request_error", field=error.field)

"""A request that is not answered, and why, in OpenAI's form."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        status: HTTP status: 4xx, or 503 while the server stops.
        message: What was given, what is accepted.
        param: The field that the message is about, for instance ``messages[0].role``.
        code: Short name of the reason.
        kind: Group of reasons, OpenAI's ``type``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind

    def body(self) -> dict[str, Any]:
        """The answer to send, in OpenAI's form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

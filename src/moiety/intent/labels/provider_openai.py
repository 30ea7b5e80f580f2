"""Any server with the chat protocol of OpenAI as a writer of label descriptions, through the standard library.

The key is read from an environment variable when a request is made. It goes into one header and nowhere else: it is
removed from everything that the server says before that is parsed, stored, logged or shown. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from moiety.intent.labels.prompt import Message

logger = logging.getLogger(__name__)

DECODING: Mapping[str, Any] = {"temperature": 0}
MAX_BYTES = 2**20
LOCAL = ("localhost", "127.0.0.1", "::1")
PASSING = (408, 409, 429)
"""Answers that may change by themselves, besides all from 500 on."""


class EndpointError(RuntimeError):
    """A server gave no reply; the text says what it answered instead, without the key."""


class _PassingError(EndpointError):
    """A failure that may be gone at the next try; `wait` is the pause that the server asks for, in seconds."""

    wait: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it could send the key to a stranger, and it turns a POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        """No new request is made; the redirect becomes an error with its address."""


class EndpointWriter:
    """A model at a server, asked through ``{base_url}/chat/completions``.

    Args:
        model: Name of the model at the server.
        base_url: Address up to the version, for instance ``http://localhost:8000/v1``.
        key_variable: Environment variable that holds the key; None: no key is sent.
        decoding: More fields of the request. The value None removes a default field.
        timeout: Seconds for a whole reply.
        retries: Number of further tries after a failure that may pass.
        wait: Seconds before the first further try; each later pause is twice as long.

    Raises:
        ValueError: the address cannot be used, or the environment variable holds no key.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        base_url: str,
        key_variable: str | None = None,
        decoding: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        wait: float = 1.0,
    ) -> None:
        self.model, self.base_url, self.key_variable = model, _checked_address(base_url), key_variable
        self.decoding = {k: v for k, v in {**DECODING, **(decoding or {})}.items() if v is not None}
        self.timeout, self.retries, self.wait = timeout, retries, wait
        host = urllib.parse.urlsplit(self.base_url)
        if self._key() and host.scheme == "http" and host.hostname not in LOCAL:
            logger.warning("the key in %s travels unencrypted to %s; use https", key_variable, host.hostname)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the reply, besides model and prompt."""
        return {"base_url": self.base_url, **self.decoding}

    def reply(self, messages: Sequence[Message]) -> str:
        """The reply of the model to a conversation.

        Raises:
            EndpointError: the server refused, or every try failed.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._once(messages)
            except _PassingError as error:
                if attempt == self.retries:
                    raise EndpointError(f"{error}; tried {attempt + 1} times") from None
                pause = max(self.wait * 2**attempt, min(error.wait or 0.0, self.timeout))
                logger.info("%s; next try in %.1f s", error, pause)
                time.sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def _once(self, messages: Sequence[Message]) -> str:
        body = json.dumps({"model": self.model, "messages": list(messages), **self.decoding}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "moiety"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        start = time.monotonic()
        try:
            with opener.open(request, timeout=self.timeout) as response:
                answer = self._struck(_read(response, start + self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except TimeoutError:
            raise _PassingError(f"{self.base_url} did not answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise _PassingError(f"{self.base_url} did not answer within {self.timeout:g} s") from None
            raise _PassingError(f"no connection to {self.base_url} ({self._struck(str(reason))})") from None
        return self._struck(_content(answer, self.base_url))

    def _refusal(self, error: urllib.error.HTTPError) -> EndpointError:
        """An HTTP status as an error for the user."""
        try:
            said = self._struck(error.fp.read1(2000).decode("utf-8", "replace"))  # type: ignore[attr-defined]
        except (OSError, http.client.HTTPException):
            said = ""  # the status says enough
        said = f" ({' '.join(said.split())[:300]})" if said.strip() else ""
        if 300 <= error.code < 400:
            address = self._struck(str(error.headers.get("Location")))
            return EndpointError(
                f"{self.base_url} redirects to {address}; that is not followed, give the final address as base_url"
            )
        if error.code in (401, 403):
            sent = (
                f"the key in {self.key_variable}" if self.key_variable else "a request without a key; set key_variable"
            )
            return EndpointError(f"{self.base_url} refuses {sent}: {error.code}{said}")
        if error.code in PASSING or error.code >= 500:
            passing = _PassingError(f"{self.base_url} answers {error.code}{said}")
            given = error.headers.get("Retry-After", "")
            passing.wait = float(given) if given.isdecimal() else None
            return passing
        return EndpointError(f"{self.base_url} refuses the request for model {self.model!r}: {error.code}{said}")

    def _key(self) -> str | None:
        """The key. It is read each time and never kept on the object.

        Raises:
            ValueError: the variable is not set, or holds characters that no header can.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(
                f"environment variable {self.key_variable!r} holds no key; export it, or leave key_variable out"
            )
        if not all("!" <= sign <= "~" for sign in key):
            raise ValueError(
                f"environment variable {self.key_variable!r} holds characters that no key has; export it again"
            )
        return key

    def _struck(self, text: str) -> str:
        """`text` without the key, also in the spellings that JSON has for its slashes and quotes."""
        key = self._key()
        for form in {key, key.replace("/", "\\/"), json.dumps(key)[1:-1]} if key else ():
            text = text.replace(form, "[key]")
        return text


def _checked_address(base_url: str) -> str:
    """The address without a slash at its end. An address that could hold a secret is refused and not shown."""
    parts = urllib.parse.urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"base_url must be an http or https address such as http://localhost:8000/v1, got {base_url!r}"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"base_url for {parts.hostname} holds a user, password, query or fragment; it is written into tables, so "
            "give the bare address, and the key through key_variable"
        )
    return base_url.rstrip("/")


def _read(response: http.client.HTTPResponse, deadline: float) -> str:
    """The whole body, within the limits of time and size. A slow server gets no more time than a silent one."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise http.client.HTTPException(f"it sends more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts).decode("utf-8", "replace")


def _content(answer: str, base_url: str) -> str:
    """The text inside a chat completion.

    Raises:
        _PassingError: there is none.
    """
    try:
        choice = json.loads(answer)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise _PassingError(f"{base_url} sent no chat completion: {' '.join(answer.split())[:300]}")
    return content

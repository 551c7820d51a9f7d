"""Connection to a tuner server: JSON requests with a token, repeated where that is safe, and errors as exceptions.

TunerClientError
├── Unreachable      the server does not answer, or is too busy
├── Refused          the request is wrong; `problems` has the mistakes of a study file
│   ├── NotAllowed   the token is missing, has expired or has too small a scope
│   └── NotFound     there is no such study
├── ServerError      the server has failed
└── StudyFailed      the study that was waited for failed or was cancelled
"""

import http.client
import json
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

ROOT = "/tuner/api/v1"
#: answers after which the same request may succeed
_BUSY = (429, 502, 503, 504)
_LONGEST_PAUSE_SECONDS = 30.0
_HEADERS = {"accept": "application/json", "connection": "close"}

Json = dict[str, Any]


class TunerClientError(Exception):
    """The base class of every error of this package."""


class Unreachable(TunerClientError):
    """The server does not answer, or is too busy."""


class ServerError(TunerClientError):
    """The server has failed."""


class Refused(TunerClientError):
    """The request is wrong; the message says what was expected."""

    def __init__(self, message: str, *, status: int, problems: list[Json] | None = None) -> None:
        super().__init__(message)
        self.status = status
        #: mistakes of a study file: `field`, `message`, `line` and `column`
        self.problems = problems or []


class NotAllowed(Refused):
    """The token is missing, has expired or has too small a scope."""


class NotFound(Refused):
    """There is no such study."""


class Connection:
    """A server, and the token that is sent to it. Each request has a connection of its own, so threads may share it."""

    def __init__(self, url: str, token: str | None, *, timeout_seconds: float, tries: int, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"the address is {url!r}; expected one such as https://tuner.example, without a token in it")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("the token contains characters that no token has; copy it again")
        self._is_https, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._token, self._timeout_seconds, self._tries, self._context = token, timeout_seconds, tries, context
        self.address = f"{parts.scheme}://{parts.netloc}{self._prefix}"

    def __repr__(self) -> str:
        return f"Connection({self.address!r})"

    def json(self, method: str, path: str, /, *, body: Any = None, headers: Mapping[str, str] | None = None, **query: Any) -> Json:
        """Return the answer of the server.

        Raises:
            TunerClientError: there is none, or it is a refusal.
        """
        content = None if body is None else json.dumps(body).encode()
        more = {"content-type": "application/json"} if body is not None else {}
        with self.open(method, path, content=content, headers={**more, **(headers or {})}, **query) as answer:
            found: Json = json.loads(answer.read())
            return found

    def open(
        self, method: str, path: str, /, *, content: bytes | None = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> "http.client.HTTPResponse":
        """Return the open answer of the server. A request that changes nothing twice is repeated while the server does not answer.

        Raises:
            TunerClientError: there is none, or it is a refusal.
        """
        is_safe = method in ("GET", "PUT", "PATCH", "DELETE") or "idempotency-key" in (headers or {})
        for number in range(1, self._tries + 1):
            try:
                answer = self._send(method, path, content, headers or {}, query)
            except (OSError, http.client.HTTPException) as error:
                if not is_safe or number == self._tries:
                    raise Unreachable(f"{self.address} does not answer: {error}") from error
                time.sleep(_pause(number, None))
                continue
            if answer.status < 300:
                return answer
            with answer:
                failure = _failure(answer, self.address)
            if answer.status not in _BUSY or not is_safe or number == self._tries:
                raise failure
            time.sleep(_pause(number, answer.headers.get("retry-after")))
        raise AssertionError

    def upload(self, path: str, file: BinaryIO, num_bytes: int, /, **query: Any) -> Json:
        """Send a file and return the answer; it is not repeated.

        Raises:
            TunerClientError: there is no answer, or it is a refusal.
        """
        headers = {"content-type": "application/zip", "content-length": str(num_bytes)}
        try:
            answer = self._send("POST", path, file, headers, query)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.address} does not answer: {error}") from error
        with answer:
            if answer.status >= 300:
                raise _failure(answer, self.address)
            found: Json = json.loads(answer.read())
            return found

    def events(self, path: str) -> Iterator[Json]:
        """Yield the server-sent events of a stream, which opens again when it ends."""
        while True:
            with self.open("GET", path, headers={"accept": "text/event-stream"}) as answer:
                try:
                    for line in answer:
                        if line.startswith(b"data: ") and (event := json.loads(line[6:])):
                            yield event
                except (OSError, http.client.HTTPException):
                    pass  # the server was restarted, for example
            time.sleep(_pause(1, None))

    def _send(
        self, method: str, path: str, content: bytes | BinaryIO | None, headers: Mapping[str, str], query: Mapping[str, Any]
    ) -> http.client.HTTPResponse:
        given = {name: value for name, value in query.items() if value is not None}
        address = f"{self._prefix}{ROOT}{path}" + (f"?{urlencode(given)}" if given else "")
        connection = self._new()
        try:
            token = {"authorization": f"Bearer {self._token}"} if self._token else {}
            connection.request(method, address, body=content, headers={**_HEADERS, **token, **headers})
            return connection.getresponse()  # it owns the socket now
        except BaseException:
            connection.close()
            raise

    def _new(self) -> http.client.HTTPConnection:
        if self._is_https:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_seconds, context=self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)


def part(name: str) -> str:
    """Return a name as one part of an address."""
    return quote(name, safe="")


def _pause(number: int, asked: str | None) -> float:
    """Return the seconds before the next try: as the server asks, else longer each time, by chance."""
    if asked is not None and asked.isdecimal():
        return min(float(asked), _LONGEST_PAUSE_SECONDS)
    longest: float = 0.25 * 2**number
    return min(_LONGEST_PAUSE_SECONDS, longest * random.uniform(0.5, 1.0))


def _failure(answer: http.client.HTTPResponse, address: str) -> TunerClientError:
    try:
        found = json.loads(answer.read(1_000_000))
    except ValueError:
        found = {}
    message = (found.get("detail") or found.get("reason") if isinstance(found, dict) else None) or f"{answer.status} {answer.reason}"
    match answer.status:
        case 401 | 403:
            return NotAllowed(message, status=answer.status)
        case 404:
            return NotFound(message, status=404)
        case status if status in _BUSY:
            return Unreachable(f"{address}: {message}")
        case status if status >= 500:
            return ServerError(f"{address}: {message}")
    return Refused(message, status=answer.status, problems=found.get("problems") if isinstance(found, dict) else None)

"""The way to an OpenID provider and back, into a session; with state, nonce and PKCE, as authlib does it."""

import logging
import secrets
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.dashboard.auth import authentication, provider, signin
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.auth.provider import NotAdmitted, Provider
from tuner.errors import MissingPackage

_FOLDER = authentication.OPENID.rstrip("/")
_COOKIE = "tuner-oidc"
#: how long someone may take at the provider
_SECONDS = 600
#: of one answer of the provider
_TIMEOUT_SECONDS = 10.0
#: signatures that need the provider's private key: not `none`, and nothing that a client's secret could make
_SIGNATURES = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})

_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """What the provider says cannot be used; says what."""


def routes(lock: Authentication) -> list[BaseRoute]:
    """The way there and back; nothing where no provider is named.

    Raises:
        MissingPackage: authlib is not installed.
    """
    named = lock.settings.openid
    if named is None:
        return []
    pages = _Pages(lock, named, _client(named))
    inner = Router([Route("/start", pages.start, methods=["GET"]), Route("/back", pages.back, methods=["GET"])])
    return [Mount(_FOLDER, app=_Remembered(inner))]


def _client(named: Provider) -> Any:
    try:
        from authlib.integrations.starlette_client import OAuth
    except ImportError as error:
        raise MissingPackage("authlib", extra="oidc", needed_for=f"sign-in by OpenID Connect ({provider.ISSUER})") from error
    return OAuth().register(
        "provider",
        client_id=named.client_id,
        client_secret=named.client_secret,
        server_metadata_url=f"{named.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": named.scopes,
            "code_challenge_method": "S256",
            "timeout": _TIMEOUT_SECONDS,
            **({} if named.client_secret else {"token_endpoint_auth_method": "none"}),
        },
    )


class _Remembered:
    """Keeps in a signed cookie of a few minutes who set out, so that only he comes back."""

    def __init__(self, app: ASGIApp) -> None:
        key = secrets.token_hex(32)
        self._by_scheme = {
            scheme: SessionMiddleware(
                app, key, session_cookie=_COOKIE, max_age=_SECONDS, path=_FOLDER, same_site="lax", https_only=scheme == "https"
            )
            for scheme in ("http", "https")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with what was remembered."""
        await self._by_scheme[scope["scheme"]](scope, receive, send)


class _Pages:
    def __init__(self, lock: Authentication, named: Provider, client: Any) -> None:
        self._lock, self._provider, self._client = lock, named, client

    async def start(self, request: Request) -> Response:
        """Send someone to the provider."""
        request.session["next"] = authentication.local(request.query_params.get("next", "/"))
        try:
            await self._metadata()
            answer = await self._client.authorize_redirect(
                request, f"{request.url.scheme}://{request.url.netloc}{authentication.BACK_FROM_ELSEWHERE}"
            )
        except _failures() as error:
            return await self._refuse(request, HTTPStatus.BAD_GATEWAY, f"{self._provider.name} cannot be asked at the moment.", error)
        assert isinstance(answer, Response)
        return answer

    async def back(self, request: Request) -> Response:
        """Let in whom the provider has sent back, if he has a role here."""
        request.state.signing_in = f"someone of {self._provider.name}"
        goal = authentication.local(str(request.session.get("next", "/")))
        try:
            identity = await run_in_threadpool(self._provider.admit, await self._claims(request), self._lock.accounts)
        except NotAdmitted as refused:
            return await self._refuse(request, HTTPStatus.FORBIDDEN, str(refused), refused)
        except _failures() as error:
            said = f"Signing in at {self._provider.name} did not work. Try again from here."
            return await self._refuse(request, HTTPStatus.UNAUTHORIZED, said, error)
        request.session.clear()
        request.state.identity = identity
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        is_user = await run_in_threadpool(self._lock.accounts.role, identity.name) is not None
        self._lock.sessions.begin(request, answer, identity, is_user=is_user)
        return answer

    async def _metadata(self) -> dict[str, Any]:
        """What the provider says of itself; read once.

        Raises:
            _Unusable: it is another, or signs in no way that can be checked.
        """
        told: dict[str, Any] = await self._client.load_server_metadata()
        if told.get("issuer") != self._provider.issuer:
            raise _Unusable(f"it calls itself {str(told.get('issuer'))[:200]}, and {provider.ISSUER} is {self._provider.issuer}")
        signatures = sorted(_SIGNATURES & set(told.get("id_token_signing_alg_values_supported") or ["RS256"]))
        if not signatures:
            raise _Unusable(f"it signs with none of {', '.join(sorted(_SIGNATURES))}")
        told["id_token_signing_alg_values_supported"] = signatures
        return told

    async def _claims(self, request: Request) -> dict[str, Any]:
        """What the provider says of someone: the ID token, and what only its other page tells.

        Raises:
            _Unusable: it says nothing, or speaks of two people.
        """
        told = await self._metadata()
        expected = {"iss": self._provider.issuer, "aud": self._provider.client_id}
        options = {name: {"essential": True, "value": value} for name, value in expected.items()}
        token = await self._client.authorize_access_token(request, claims_options=options)
        claims = token.get("userinfo")
        if not claims:
            raise _Unusable("it sent no ID token")
        if not told.get("userinfo_endpoint"):
            return dict(claims)
        more = await self._client.userinfo(token=token)
        if more.get("sub") != claims["sub"]:
            raise _Unusable("its ID token and its userinfo speak of two people")
        return {**more, **claims}

    async def _refuse(self, request: Request, status: HTTPStatus, said: str, error: Exception) -> Response:
        _log.warning("sign-in at %s failed: %s: %s", self._provider.issuer, type(error).__name__, error)
        goal = authentication.local(str(request.session.get("next", "/")))
        return await run_in_threadpool(signin.page, self._lock, request, status=status, goal=goal, said=said)


def _failures() -> tuple[type[Exception], ...]:
    """What may go wrong with a provider, or with whoever pretends to come from it."""
    import httpx2
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError

    return (AuthlibBaseError, JoseError, httpx2.HTTPError, httpx2.InvalidURL, _Unusable, RuntimeError, ValueError, KeyError)

"""Sign-in with a password, the printed link or at an OpenID provider, and sign-out.

authlib implements the sign-in at a provider, with state, nonce and PKCE.
"""

import functools
import logging
import math
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.dashboard.auth import authentication, openid, sessions
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.auth.openid import NotAdmitted, Provider
from tuner.dashboard.auth.permissions import Identity
from tuner.errors import MissingPackage

_HERE = Path(__file__).parents[1]
#: enough for a name, a password and an address
_MAX_FORM_BYTES = 16_384
_WRONG_PASSWORD = "Wrong name or password."
_WRONG_TOKEN = "Wrong token. Use the most recent link that tuner printed."
_EXPIRED_LINK = "This link has expired because tuner was restarted. Use the most recent link."
_OPENID_FOLDER = authentication.OPENID.rstrip("/")
_OPENID_COOKIE = "tuner-oidc"
#: time limit for the user at the OpenID provider
_MAX_OPENID_SECONDS = 600
#: time limit for one response of the provider
_TIMEOUT_SECONDS = 10.0
#: signatures that need the provider's private key: not `none`, and none that the client's secret can create
_SIGNATURES = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})

_log = logging.getLogger(__name__)


def routes(auth: Authentication) -> list[BaseRoute]:
    """Return the routes of the sign-in page and its style sheet, of the sign-out, and of the sign-in at a provider.

    Raises:
        MissingPackage: a provider is set, and authlib is not installed.
    """
    pages = _Pages(auth)
    return [
        Route(authentication.SIGN_IN, pages.show, methods=["GET"]),
        Route(authentication.SIGN_IN, pages.enter, methods=["POST"]),
        Route(authentication.SIGN_OUT, pages.leave, methods=["POST"]),
        Route(authentication.STYLE, _style, methods=["GET"]),
        *_openid_routes(auth),
    ]


def page(auth: Authentication, request: Request, *, status: int = 200, wait: int = 0, **variables: Any) -> Response:
    """Return the sign-in page. `wait` is the number of seconds until the next attempt."""
    provider, root = auth.settings.openid, sessions.path_prefix(request)
    defaults = {
        "name": "",
        "has_users": any(user.password is not None for user in auth.accounts.read().users.values()),
        "has_token": auth.start_token is not None,
        "sign_in": root + authentication.SIGN_IN,
        "style": root + authentication.STYLE,
        "provider": "" if provider is None else provider.name,
        "openid_start": root + authentication.OPENID_START,
    }
    headers = {"Retry-After": str(wait)} if wait else None
    return _templates().TemplateResponse(request, "signin.html", defaults | variables, status_code=status, headers=headers)


class _Pages:
    def __init__(self, auth: Authentication) -> None:
        self._auth = auth

    async def show(self, request: Request) -> Response:
        """Return the page; redirect a user who is signed in."""
        goal = authentication.local_path(request.query_params.get("next", "/"))
        if _identity(request) is not None:
            return RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        notice = _EXPIRED_LINK if "stale" in request.query_params else ""
        return await run_in_threadpool(self._page, request, goal=goal, notice=notice)

    async def enter(self, request: Request) -> Response:
        """Sign in with a password, or with the token of the printed link."""
        form = await _form(request)
        if form is None:
            return PlainTextResponse("The form is too large.\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return await run_in_threadpool(self._enter, request, form)

    async def leave(self, request: Request) -> Response:
        """Sign out."""
        answer = RedirectResponse(authentication.SIGN_IN, HTTPStatus.SEE_OTHER)
        self._auth.sessions.end(request, answer)
        return answer

    def _enter(self, request: Request, form: dict[str, str]) -> Response:
        goal = authentication.local_path(form.get("next", "/"))
        name, address = form.get("name", "").strip()[:200], request.client.host if request.client else ""
        wait = self._auth.throttle.begin(name, address)
        if wait > 0:
            notice = f"Too many attempts. Try again in {math.ceil(wait)} s."
            return self._page(request, goal=goal, name=name, notice=notice, status=HTTPStatus.TOO_MANY_REQUESTS, wait=math.ceil(wait))
        request.state.signing_in = name
        is_user = "token" not in form
        if is_user:
            identity = self._auth.accounts.check_password(name, form.get("password", ""))
        else:
            identity = self._auth.by_start_token(form["token"].strip().rpartition("token=")[2])
        if identity is None:
            notice = _WRONG_PASSWORD if is_user else _WRONG_TOKEN
            return self._page(request, goal=goal, name=name, notice=notice, status=HTTPStatus.UNAUTHORIZED)
        self._auth.throttle.succeed(name, address)
        request.state.identity = identity
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        self._auth.sessions.begin(request, answer, identity, is_user=is_user)
        return answer

    def _page(self, request: Request, **variables: Any) -> Response:
        return page(self._auth, request, **variables)


@functools.cache
def _templates() -> Jinja2Templates:
    return Jinja2Templates(_HERE / "templates")


async def _style(request: Request) -> Response:
    return FileResponse(_HERE / "static" / "signin.css", media_type="text/css")


async def _form(request: Request) -> dict[str, str] | None:
    """Return the first value of each field of a form; None if the form is too large."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM_BYTES:
                return None
    except ClientDisconnect:
        return None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}


def _identity(request: Request) -> Identity | None:
    found: Identity | None = getattr(request.state, "identity", None)
    return found


class _Unusable(Exception):
    """A response of the provider that cannot be used. The message says why."""


def _openid_routes(auth: Authentication) -> list[BaseRoute]:
    """Return the routes to the provider and back; [] if there is no provider."""
    provider = auth.settings.openid
    if provider is None:
        return []
    pages = _OpenIdPages(auth, provider, _client(provider))
    inner = Router([Route("/start", pages.start, methods=["GET"]), Route("/back", pages.back, methods=["GET"])])
    return [Mount(_OPENID_FOLDER, app=_SignInCookie(inner))]


def _client(provider: Provider) -> Any:
    try:
        from authlib.integrations.starlette_client import OAuth
    except ImportError as error:
        raise MissingPackage("authlib", extra="oidc", needed_for=f"sign-in by OpenID Connect ({openid.ISSUER})") from error
    return OAuth().register(
        "provider",
        client_id=provider.client_id,
        client_secret=provider.client_secret,
        server_metadata_url=f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": provider.scopes,
            "code_challenge_method": "S256",
            "timeout": _TIMEOUT_SECONDS,
            **({} if provider.client_secret else {"token_endpoint_auth_method": "none"}),
        },
    )


class _SignInCookie:
    """Middleware with a signed cookie for a few minutes, so that only the browser that started a sign-in can finish it."""

    def __init__(self, app: ASGIApp) -> None:
        key = secrets.token_hex(32)
        of_cookie: dict[str, Any] = {"session_cookie": _OPENID_COOKIE, "max_age": _MAX_OPENID_SECONDS, "path": _OPENID_FOLDER}
        self._by_scheme = {
            scheme: SessionMiddleware(app, key, **of_cookie, same_site="lax", https_only=scheme == "https") for scheme in ("http", "https")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request with the content of the cookie."""
        prefix = sessions.path_prefix(Request(scope))

        async def send_below(message: Message) -> None:
            if prefix and message["type"] == "http.response.start":
                path = f"path={_OPENID_FOLDER}".encode()
                below = f"path={prefix}{_OPENID_FOLDER}".encode()
                message["headers"] = [(name, value.replace(path, below)) for name, value in message["headers"]]
            await send(message)

        await self._by_scheme[scope["scheme"]](scope, receive, send_below)


class _OpenIdPages:
    def __init__(self, auth: Authentication, provider: Provider, client: Any) -> None:
        self._auth, self._provider, self._client = auth, provider, client

    async def start(self, request: Request) -> Response:
        """Redirect the user to the provider."""
        request.session["next"] = authentication.local_path(request.query_params.get("next", "/"))
        try:
            await self._metadata()
            here = f"{request.url.scheme}://{request.url.netloc}{sessions.path_prefix(request)}"
            answer = await self._client.authorize_redirect(request, f"{here}{authentication.OPENID_BACK}")
        except _sign_in_errors() as error:
            name = self._provider.name
            notice = f"{name} does not answer, or its metadata does not match the settings. Try again later, or see the log."
            return await self._refuse(request, HTTPStatus.BAD_GATEWAY, notice, error)
        assert isinstance(answer, Response)
        return answer

    async def back(self, request: Request) -> Response:
        """Sign in the user whom the provider has sent back, if the user has a role."""
        request.state.signing_in = f"someone of {self._provider.name}"
        goal = authentication.local_path(str(request.session.get("next", "/")))
        try:
            identity = await run_in_threadpool(self._provider.admit, await self._claims(request), self._auth.accounts)
        except NotAdmitted as error:
            return await self._refuse(request, HTTPStatus.FORBIDDEN, str(error), error)
        except _sign_in_errors() as error:
            notice = f"The sign-in at {self._provider.name} failed. Try again from here."
            return await self._refuse(request, HTTPStatus.UNAUTHORIZED, notice, error)
        request.session.clear()
        request.state.identity = identity
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        is_user = await run_in_threadpool(self._auth.accounts.role, identity.name) is not None
        self._auth.sessions.begin(request, answer, identity, is_user=is_user)
        return answer

    async def _metadata(self) -> dict[str, Any]:
        """Return the provider's metadata, which is read once.

        Raises:
            _Unusable: it names another issuer, or no supported signature.
        """
        metadata: dict[str, Any] = await self._client.load_server_metadata()
        if metadata.get("issuer") != self._provider.issuer:
            raise _Unusable(f"its issuer is {str(metadata.get('issuer'))[:200]}, but {openid.ISSUER} is {self._provider.issuer}")
        signatures = sorted(_SIGNATURES & set(metadata.get("id_token_signing_alg_values_supported") or ["RS256"]))
        if not signatures:
            raise _Unusable(f"it supports none of the signatures {', '.join(sorted(_SIGNATURES))}")
        metadata["id_token_signing_alg_values_supported"] = signatures
        return metadata

    async def _claims(self, request: Request) -> dict[str, Any]:
        """Return the claims of the ID token and of the userinfo endpoint.

        Raises:
            _Unusable: there is no ID token, or the two describe different users.
        """
        metadata = await self._metadata()
        expected = {"iss": self._provider.issuer, "aud": self._provider.client_id}
        options = {name: {"essential": True, "value": value} for name, value in expected.items()}
        token = await self._client.authorize_access_token(request, claims_options=options)
        claims = token.get("userinfo")
        if not claims:
            raise _Unusable("it sent no ID token")
        if not metadata.get("userinfo_endpoint"):
            return dict(claims)
        more = await self._client.userinfo(token=token)
        if more.get("sub") != claims["sub"]:
            raise _Unusable("its ID token and its userinfo describe different users")
        return {**more, **claims}

    async def _refuse(self, request: Request, status: HTTPStatus, notice: str, error: Exception) -> Response:
        _log.warning("sign-in at %s failed: %s: %s", self._provider.issuer, type(error).__name__, error)
        goal = authentication.local_path(str(request.session.get("next", "/")))
        return await run_in_threadpool(page, self._auth, request, status=status, goal=goal, notice=notice)


def _sign_in_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a failed or forged sign-in at a provider."""
    import httpx2
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError

    return (AuthlibBaseError, JoseError, httpx2.HTTPError, httpx2.InvalidURL, _Unusable, RuntimeError, ValueError, KeyError)

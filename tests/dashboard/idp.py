"""A small OpenID provider on loopback: discovery, sign-in, tokens with PKCE, keys and userinfo, and faults that a test can choose."""

import base64
import contextlib
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID, CLIENT_SECRET = "tuner-dashboard", "a secret & a half/+"


@dataclass(kw_only=True)
class OpenIdProvider:
    """A provider that signs in everyone as one configured person."""

    address: str = ""
    #: additional claims of the ID token
    person: dict[str, Any] = field(default_factory=dict)
    #: claims of the userinfo only
    more: dict[str, Any] = field(default_factory=dict)
    #: wrong claims of the ID token
    forged: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    #: key that signs the token; None: the published key
    signs_with: RSAKey | None = None
    refuses: bool = False
    has_secret: bool = True
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, parameters={"kid": "one"}))
    asked: list[dict[str, str]] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def app(self) -> Starlette:
        paths = {
            "/.well-known/openid-configuration": self._configuration,
            "/authorize": self._authorize,
            "/keys": self._keys,
            "/userinfo": self._userinfo,
        }
        return Starlette(routes=[*(Route(path, answer) for path, answer in paths.items()), Route("/token", self._token, methods=["POST"])])

    def _configuration(self, request: Request) -> Response:
        metadata = {
            "issuer": self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/keys",
            "userinfo_endpoint": f"{self.address}/userinfo",
            "id_token_signing_alg_values_supported": ["RS256", "none"],
        }
        return JSONResponse(metadata | self.metadata)

    def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.asked.append(asked)
        code = secrets.token_hex(8)
        self.codes[code] = asked
        answer = {"error": "access_denied"} if self.refuses else {"code": code}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer | {'state': asked['state']})}", 302)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        asked = self.codes.pop(str(form["code"]), None)
        if asked is None or not self._is_client(request) or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        digest = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest()).rstrip(b"=").decode()
        if (asked["code_challenge_method"], asked["code_challenge"]) != ("S256", digest):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.address, "sub": "1001", "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims | self.person | self.forged, self.signs_with or self.key)
        return JSONResponse({"access_token": "opaque", "token_type": "Bearer", "id_token": signed})

    def _is_client(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        if not self.has_secret:
            return not given
        return base64.b64decode(given.removeprefix("Basic ")).decode() == f"{CLIENT_ID}:{CLIENT_SECRET}"

    def _keys(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    def _userinfo(self, request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer opaque"
        return JSONResponse({"sub": "1001"} | self.more)


@contextlib.contextmanager
def beside() -> Iterator[OpenIdProvider]:
    """Serve a provider on its own port from a thread."""
    made = OpenIdProvider()
    server = uvicorn.Server(uvicorn.Config(made.app(), log_config=None, access_log=False, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join()

"""What a proxy says of a request, believed only if the proxy is one of ours."""

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_PREFIX = b"x-forwarded-"
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Forwarded:
    """Takes client, scheme and host from a trusted proxy's headers, and takes those headers away from everything behind it.

    optuna-dashboard would believe them of anyone, and send browsers to whatever host they name.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str]) -> None:
        self.networks: list[_Network] = [ipaddress.ip_network(proxy) for proxy in proxies]
        # of client and scheme: uvicorn's own
        self.app = ProxyHeadersMiddleware(_without_them(app), trusted_hosts=list(proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as its client sent it to the proxy."""
        if scope["type"] == "http" and self._is_trusted(scope):
            hosts = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
            if hosts:
                # of several proxies the first one was asked by the client
                host = hosts[0].split(b",")[0].strip()
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host)]}
        await self.app(scope, receive, send)  # type: ignore[arg-type]

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            client = ipaddress.ip_address(scope["client"][0])
        except (ValueError, TypeError):
            return False
        return any(client in network for network in self.networks)


def _without_them(app: ASGIApp) -> ASGIApp:
    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not name.startswith(_PREFIX) and name != b"forwarded"]
            scope = {**scope, "headers": kept}
        await app(scope, receive, send)

    return pass_on

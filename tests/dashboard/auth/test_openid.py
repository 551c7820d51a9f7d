"""Sign-in at an OpenID provider on loopback: roles, refusals and forged tokens."""

import builtins
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import RSAKey
from starlette.testclient import TestClient

from tests.dashboard import idp
from tests.dashboard.clients import HERE, PASSWORD, authentication_of, new_storage, sign_in
from tests.dashboard.idp import CLIENT_ID, CLIENT_SECRET, OpenIdProvider
from tuner.dashboard import app
from tuner.dashboard.auth import accounts, openid
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings, check
from tuner.errors import MissingPackage, RequestError
from tuner.storage import audit
from tuner.storage import engine as storages

ADA = {"email": "Ada@example.com", "email_verified": True, "groups": ["staff", "ml"]}


@pytest.fixture(scope="module")
def served() -> Iterator[OpenIdProvider]:
    with idp.beside() as made:
        yield made


@pytest.fixture
def at(served: OpenIdProvider) -> OpenIdProvider:
    """The provider in its first state, where the user is Ada."""
    fresh = OpenIdProvider(address=served.address, person=dict(ADA), key=served.key)
    served.__dict__.update(fresh.__dict__)
    return served


@pytest.fixture
def own_users(tmp_path: Path) -> Path:
    path = tmp_path / "users.json"
    accounts.add_user(path, "grace@example.com", Role.ADMIN, None)
    return path


def named(at: OpenIdProvider, **environment: str) -> openid.Provider:
    """Return the provider as read from the environment; members of `ml` are editors."""
    given = {"TUNER_OIDC_ISSUER": at.address, "TUNER_OIDC_CLIENT_ID": CLIENT_ID, "TUNER_OIDC_CLIENT_SECRET": CLIENT_SECRET}
    found = openid.read_provider(given | {"TUNER_OIDC_ROLES": "ml=editor, boss=admin"} | environment)
    assert found is not None
    return found


def client_of(opened: storages.Storage, users: Path, wanted: openid.Provider, base_url: str = HERE) -> TestClient:
    return TestClient(app.build(opened, authentication_of(users, openid=wanted)), base_url=base_url, follow_redirects=False)


def set_out(browser: TestClient, goal: str = "/api/studies") -> httpx2.Response:
    """Start at the sign-in page, sign in at the provider, and return its response, which redirects back."""
    away = browser.get("/tuner/oidc/start", params={"next": goal})
    assert away.status_code == 302, away.text
    return httpx2.get(away.headers["location"])


def go(browser: TestClient, goal: str = "/api/studies") -> httpx2.Response:
    """Sign in at the provider, and return the dashboard's response."""
    return browser.get(set_out(browser, goal).headers["location"])


def test_a_group_gives_a_role_and_the_sign_in_is_recorded(at: OpenIdProvider, tmp_path: Path, own_users: Path) -> None:
    opened = new_storage(tmp_path)
    browser = client_of(opened, own_users, named(at))
    assert (
        f'href="/tuner/oidc/start?next=/dashboard/studies/1">Sign in with {"127.0.0.1"}'
        in browser.get("/tuner/signin?next=/dashboard/studies/1").text
    )
    answer = go(browser, "/api/studies?a=b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/studies?a=b")
    assert browser.get("/api/studies").status_code == 200
    note = {"body": "mine", "version": 1}
    assert browser.put("/api/studies/1/note", headers={"origin": HERE}, json=note).status_code == 204
    assert browser.delete("/api/studies/1", headers={"origin": HERE}).status_code == 403
    assert browser.post("/tuner/signout", headers={"origin": HERE}).status_code == 303
    assert browser.get("/api/studies").status_code == 401
    seen = [(r.event.who, r.event.role, r.event.method, r.event.path, r.event.status) for r in audit.read(opened, limit=9)][::-1]
    assert seen[:2] == [
        ("Ada@example.com", "editor", "GET", "/tuner/oidc/back", 303),
        ("Ada@example.com", "editor", "PUT", "/api/studies/1/note", 204),
    ]


def test_state_nonce_and_pkce_are_sent_and_the_cookie_is_short_lived(
    at: OpenIdProvider, flowers: storages.Storage, own_users: Path
) -> None:
    away = client_of(flowers, own_users, named(at), "https://127.0.0.1:8443").get("/tuner/oidc/start")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(away.headers["location"]).query).items()}
    assert asked["redirect_uri"] == "https://127.0.0.1:8443/tuner/oidc/back"
    assert (asked["scope"], asked["code_challenge_method"], asked["response_type"]) == ("openid email profile", "S256", "code")
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 20
    for flag in ("tuner-oidc=", "path=/tuner/oidc", "Max-Age=600", "httponly", "samesite=lax", "secure"):
        assert flag in away.headers["set-cookie"]


@pytest.mark.parametrize(
    ("person", "environment", "name", "role"),
    [
        (ADA, {}, "Ada@example.com", Role.EDITOR),
        # the highest of several groups
        (ADA | {"groups": ["ml", "boss"]}, {}, "Ada@example.com", Role.ADMIN),
        # one group as text; a nested claim, as in Keycloak
        (ADA | {"groups": "boss"}, {}, "Ada@example.com", Role.ADMIN),
        ({"realm_access": {"roles": ["ml"]}}, {"TUNER_OIDC_CLAIM": "realm_access.roles"}, "1001@127.0.0.1", Role.EDITOR),
        # an unverified address is not used
        (ADA | {"email_verified": False}, {}, "1001@127.0.0.1", Role.EDITOR),
        # the users file takes precedence over groups
        (ADA | {"email": "GRACE@example.com"}, {}, "grace@example.com", Role.ADMIN),
        # any user of a domain
        (ADA | {"groups": []}, {"TUNER_OIDC_ROLES": "*=viewer", "TUNER_OIDC_DOMAINS": "example.com"}, "Ada@example.com", Role.VIEWER),
    ],
)  # fmt: skip
def test_a_role_comes_from_the_users_file_the_groups_or_the_domain(
    at: OpenIdProvider, own_users: Path, person: Mapping[str, Any], environment: dict[str, str], name: str, role: Role
) -> None:
    admitted = named(at, **environment).admit({"sub": "1001", **person}, accounts.Accounts(own_users))
    assert (admitted.name, admitted.role) == (name, role)


@pytest.mark.parametrize(
    ("person", "environment", "said"),
    [
        ({"groups": ["staff"]}, {}, "Ada@example.com has no role: none of the groups"),
        ({"groups": ["*"]}, {"TUNER_OIDC_ROLES": "*=viewer", "TUNER_OIDC_DOMAINS": "example.org"}, "addresses of example.org have access"),
        ({"email_verified": False}, {"TUNER_OIDC_DOMAINS": "example.com"}, "Only verified e-mail addresses"),
        ({"email": "ada@example.com.evil.example"}, {"TUNER_OIDC_DOMAINS": "example.com"}, "Only verified e-mail addresses"),
        # an unverified address of an admin does not give the role admin
        ({"email": "grace@example.com", "email_verified": "no", "groups": []}, {}, "has no role: none of the groups"),
        ({"email": "a\u202eb@example.com"}, {}, "a user name that is too long or has invisible characters"),
        ({"groups": {"ml": True}}, {}, "has no role: none of the groups"),
    ],
)  # fmt: skip
def test_a_user_without_a_role_is_refused_with_the_reason(
    at: OpenIdProvider, flowers: storages.Storage, own_users: Path, person: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    at.person |= person
    browser = client_of(flowers, own_users, named(at, **environment))
    answer = go(browser)
    assert answer.status_code == 403
    assert said in answer.text
    assert browser.get("/api/studies").status_code == 401
    assert audit.read(flowers, limit=1)[0].event.status == 403


def test_groups_in_the_userinfo_count_unless_it_describes_another_user(
    at: OpenIdProvider, flowers: storages.Storage, own_users: Path
) -> None:
    at.person, at.more = {}, dict(ADA)
    assert go(client_of(flowers, own_users, named(at))).status_code == 303
    at.more["sub"] = "1002"
    assert go(client_of(flowers, own_users, named(at))).status_code == 401


def test_a_public_client_signs_in_with_pkce(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    at.has_secret = False
    assert go(client_of(flowers, own_users, named(at, TUNER_OIDC_CLIENT_SECRET=""))).status_code == 303


def test_removing_a_user_ends_the_session_at_once(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    at.person["email"] = "grace@example.com"
    browser = client_of(flowers, own_users, named(at))
    go(browser)
    assert browser.get("/api/studies").status_code == 200
    accounts.remove_user(own_users, "grace@example.com")
    assert browser.get("/api/studies").status_code == 401


def test_a_user_without_a_password_cannot_use_the_form(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    browser = client_of(flowers, own_users, named(at))
    assert [sign_in(browser, "grace@example.com", password) for password in ("", PASSWORD)] == [401, 401]


@pytest.mark.parametrize(
    "forged",
    [
        {"nonce": "another"}, {"aud": "another-client"}, {"aud": [CLIENT_ID, "another"]}, {"iss": "https://evil.example"},
        {"exp": 1_000_000_000}, {"iat": 4_000_000_000}, {"sub": "1002"},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_for_another_sign_in_is_refused(
    at: OpenIdProvider, flowers: storages.Storage, own_users: Path, forged: dict[str, Any]
) -> None:
    at.forged = forged
    browser = client_of(flowers, own_users, named(at))
    answer = go(browser)
    assert answer.status_code == 401
    assert "The sign-in at 127.0.0.1 failed." in answer.text
    assert browser.get("/api/studies").status_code == 401


def test_a_token_with_another_key_is_refused(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    at.signs_with = RSAKey.generate_key(2048, parameters={"kid": "one"})
    assert go(client_of(flowers, own_users, named(at))).status_code == 401


def test_a_response_is_valid_once_and_in_one_browser(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    browser, other = (client_of(flowers, own_users, named(at)) for _ in range(2))
    back = set_out(browser).headers["location"]
    # in another browser, it would sign in that user as someone else
    assert other.get(back).status_code == 401
    assert browser.get(back.replace("state=", "state=x")).status_code == 401
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 401
    assert browser.get("/tuner/oidc/back").status_code == 401


def test_the_redirect_after_the_sign_in_stays_on_this_server(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    for goal in ("https://evil.example", "//evil.example", "/\\evil.example"):
        assert go(client_of(flowers, own_users, named(at)), goal).headers["location"] == "/"


def test_a_refusing_or_unreachable_provider_is_reported(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    at.refuses = True
    assert go(client_of(flowers, own_users, named(at))).status_code == 401
    away = client_of(flowers, own_users, replace(named(at), issuer="http://127.0.0.1:9"))
    answer = away.get("/tuner/oidc/start")
    assert answer.status_code == 502
    assert "127.0.0.1 does not answer, or its metadata does not match the settings." in answer.text


@pytest.mark.parametrize("metadata", [{"issuer": "https://evil.example"}, {"id_token_signing_alg_values_supported": ["none", "HS256"]}])
def test_a_provider_with_wrong_metadata_is_not_used(
    at: OpenIdProvider, flowers: storages.Storage, own_users: Path, metadata: dict[str, Any]
) -> None:
    at.metadata = metadata
    assert client_of(flowers, own_users, named(at)).get("/tuner/oidc/start").status_code == 502


ISSUER = {"TUNER_OIDC_ISSUER": "https://id.example.com", "TUNER_OIDC_CLIENT_ID": "tuner"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TUNER_OIDC_CLIENT_ID": "tuner"}, "TUNER_OIDC_CLIENT_ID is set, so TUNER_OIDC_ISSUER must be set too"),
        ({"TUNER_OIDC_ROLES": "ml=viewer"}, "TUNER_OIDC_ISSUER and TUNER_OIDC_CLIENT_ID must be set too"),
        (ISSUER | {"TUNER_OIDC_ISSUER": "http://id.example.com"}, "starts with https://"),
        (ISSUER | {"TUNER_OIDC_ISSUER": "https://[::1"}, "starts with https://"),
        (ISSUER | {"TUNER_OIDC_ISSUER": "id.example.com"}, "starts with https://"),
        (ISSUER | {"TUNER_OIDC_ROLES": "ml=owner"}, "has 'ml=owner'; expected GROUP=ROLE"),
        (ISSUER | {"TUNER_OIDC_ROLES": "ml"}, "has 'ml'; expected GROUP=ROLE"),
        (ISSUER | {"TUNER_OIDC_ROLES": "*=viewer"}, "name the allowed e-mail domains in TUNER_OIDC_DOMAINS"),
        (ISSUER | {"TUNER_OIDC_SCOPES": "email"}, "expected openid among the scopes"),
        (ISSUER | {"TUNER_OIDC_CLIENT_SECRET": "x", "TUNER_OIDC_CLIENT_SECRET_FILE": "y"}, "are both set"),
        (ISSUER | {"TUNER_OIDC_CLIENT_SECRET_FILE": "/nowhere/secret"}, "cannot be read: No such file"),
        (ISSUER | {"TUNER_OIDC_CLIENT_SECRET_FILE": "/dev/null"}, "which is empty"),
    ],
)  # fmt: skip
def test_an_invalid_environment_is_refused_with_advice(environment: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match="TUNER_OIDC") as refused:
        openid.read_provider(environment)
    assert said in str(refused.value)


def test_a_secret_is_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("very secret\n")
    found = openid.read_provider(ISSUER | {"TUNER_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "secret")})
    assert found is not None
    assert found.client_secret == "very secret"
    assert "very" not in repr(found)
    assert openid.read_provider({"TUNER_OIDC_ISSUER": " "}) is None


def test_a_public_dashboard_accepts_groups_instead_of_users() -> None:
    public = Settings(host="0.0.0.0", users=Path("/nowhere/users.json"), allowed_hosts=("tuner.example",))
    check(replace(public, openid=openid.read_provider(ISSUER | {"TUNER_OIDC_ROLES": "ml=viewer"})))
    with pytest.raises(RequestError, match="it needs users"):  # no one would have a role
        check(replace(public, openid=openid.read_provider(ISSUER)))


def test_a_missing_extra_is_named(flowers: storages.Storage, own_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_authlib(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("authlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_authlib)
    with pytest.raises(MissingPackage, match=r"pip install 'tuner\[oidc\]'"):
        client_of(flowers, own_users, replace(openid.read_provider(ISSUER) or pytest.fail("none")))


def test_the_way_back_from_the_provider_is_below_the_path_prefix(at: OpenIdProvider, flowers: storages.Storage, own_users: Path) -> None:
    this = authentication_of(own_users, openid=named(at), root_path="/user/me")
    browser = TestClient(app.build(flowers, this), base_url=HERE, follow_redirects=False)
    away = browser.get("/user/me/tuner/oidc/start", params={"next": "/api/studies"})
    assert parse_qs(urlsplit(away.headers["location"]).query)["redirect_uri"] == [f"{HERE}/user/me/tuner/oidc/back"]
    assert "path=/user/me/tuner/oidc" in away.headers["set-cookie"]
    answer = browser.get(httpx2.get(away.headers["location"]).headers["location"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/user/me/api/studies")

"""A dashboard for other machines: host names, proxies, TLS and headers."""

import datetime as dt
import json
import re
import ssl
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.testclient import TestClient

from tests.dashboard.clients import HERE, PASSWORD, authentication_of, new_storage, sign_in
from tuner.dashboard import app, server, settings
from tuner.dashboard.settings import Settings
from tuner.errors import RequestError
from tuner.storage import audit
from tuner.storage import engine as storages

FAR = "https://tuner.example"
FORWARDED = {
    "host": "10.0.0.7:8080",
    "x-forwarded-host": "tuner.example",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "203.0.113.9",
}


def behind(opened: storages.Storage, users: Path, client: str) -> TestClient:
    """Return a client with the address `client`, for a server that trusts proxies in 10.0.0.0/8."""
    this = authentication_of(users, host="0.0.0.0", allowed_hosts=("tuner.example",), proxies=("10.0.0.0/8",))
    return TestClient(app.build(opened, this), base_url="http://10.0.0.7:8080", client=(client, 4000))


def test_the_headers_of_a_trusted_proxy_are_used(flowers: storages.Storage, users: Path) -> None:
    proxied = behind(flowers, users, "10.1.2.3")
    form = {"name": "viewer", "password": PASSWORD}
    answer = proxied.post("/tuner/signin", data=form, headers=FORWARDED | {"origin": FAR}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["set-cookie"].startswith("__Host-tuner-443=")
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert audit.read(flowers, limit=1)[0].event.address == "203.0.113.9"
    cookie = answer.headers["set-cookie"].partition(";")[0]
    # optuna-dashboard redirects to the client's host
    first = proxied.get("/incompatible-rdb-schema", headers=FORWARDED | {"cookie": cookie}, follow_redirects=False)
    assert first.headers["location"].removeprefix("http://tuner.example").removeprefix(FAR) == "/dashboard"
    for origin, status in ((FAR, 403), ("http://tuner.example", 403)):
        answer = proxied.delete("/api/studies/1", headers=FORWARDED | {"cookie": cookie, "origin": origin})
        assert answer.status_code == status
        assert ("viewer is viewer" in answer.text) == (origin == FAR)


def test_the_headers_of_other_clients_are_ignored(flowers: storages.Storage, users: Path) -> None:
    direct = behind(flowers, users, "203.0.113.66")
    assert direct.get("/dashboard", headers=FORWARDED).status_code == 400  # the host of the request counts
    answer = direct.post(
        "/tuner/signin",
        data={"name": "viewer", "password": "wrong one"},
        headers=FORWARDED | {"host": "tuner.example", "origin": "http://tuner.example"},
    )
    assert answer.status_code == 401
    assert "strict-transport-security" not in answer.headers
    assert audit.read(flowers, limit=1)[0].event.address == "203.0.113.66"


def test_without_proxies_forwarded_headers_are_ignored(flowers: storages.Storage, users: Path) -> None:
    browser = TestClient(app.build(flowers, authentication_of(users)), base_url="http://127.0.0.1:8080", client=("127.0.0.1", 4000))
    assert sign_in(browser, "viewer") == 303
    forwarded = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-forwarded-for": "1.2.3.4",
        "forwarded": "host=evil.example",
    }
    answer = browser.get("/incompatible-rdb-schema", headers=forwarded, follow_redirects=False)
    assert answer.headers["location"] in ("/dashboard", "http://127.0.0.1:8080/dashboard")


@pytest.mark.parametrize("host", ["tuner.example", "TUNER.example:8080", "127.0.0.1:8080"])
def test_allowed_host_names_are_served(flowers: storages.Storage, users: Path, host: str) -> None:
    assert behind(flowers, users, "203.0.113.66").get("/tuner/signin", headers={"host": host}).status_code == 200


def test_health_checks_need_no_host_name(flowers: storages.Storage, users: Path) -> None:
    probed = behind(flowers, users, "203.0.113.66")
    assert [probed.get(path, headers={"host": "10.244.0.5"}).status_code for path in ("/healthz", "/readyz", "/tuner/signin")] == [
        200,
        200,
        400,
    ]


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/tuner/signin", "/nowhere", "/csv/1", "/artifacts/1/0a"])
def test_every_response_has_security_headers(browser: TestClient, path: str) -> None:
    headers = browser.get(path, follow_redirects=False).headers
    for part in ("frame-ancestors 'none'", "default-src "):
        assert part in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"], headers["cache-control"]) == (
        "nosniff",
        "same-origin",
        "no-store",
    )


def test_an_uploaded_file_is_sandboxed_and_a_script_is_cacheable(browser: TestClient) -> None:
    assert "sandbox" in browser.get("/artifacts/1/0a").headers["content-security-policy"]
    assert browser.get("/static/bundle.js").headers.get("cache-control") != "no-store"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1)).add_extension(names, critical=False)
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


def test_a_certificate_enables_tls(flowers: storages.Storage, users: Path, certificate: tuple[Path, Path]) -> None:
    wanted = Settings(users=users, certificate=certificate[0], key=certificate[1])
    with server.beside(flowers, wanted, 0) as served:
        assert served.address.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate[0]))
        with urllib.request.urlopen(served.address.replace("127.0.0.1", "localhost") + "/healthz", context=context) as answer:
            assert answer.read() == b"alive\n"
            assert answer.headers["Strict-Transport-Security"]


PREFIX = "/user/me/proxy/8080"
_LINK = re.compile(r'(?:href|src|action|data-copy-from)="([^"]*)"')


def below(opened: storages.Storage, users: Path, prefix: str = PREFIX, **others: object) -> TestClient:
    """Return a client of a dashboard below a path prefix that `--root-path` names."""
    return TestClient(app.build(opened, authentication_of(users, root_path=prefix, **others)), base_url=HERE)


@pytest.mark.parametrize("prefix", [PREFIX, "/tuner", "/user/ann@lab/vscode/proxy/8080"])
@pytest.mark.parametrize("is_removed", [True, False])  # some proxies remove the prefix, others do not
def test_every_link_form_and_file_of_our_pages_is_below_the_prefix(
    flowers: storages.Storage, users: Path, prefix: str, is_removed: bool
) -> None:
    browser, sent = below(flowers, users, prefix), "" if is_removed else prefix
    form = {"name": "admin", "password": PASSWORD, "next": "/tuner/workers"}
    assert f'action="{prefix}/tuner/signin"' in browser.get(f"{sent}/tuner/signin").text
    answer = browser.post(f"{sent}/tuner/signin", data=form, headers={"origin": HERE}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{prefix}/tuner/workers")
    assert f"Path={prefix};" in answer.headers["set-cookie"]
    cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
    for path in ("/", "/tuner/workers", "/tuner/studies/1", "/tuner/studies/1/trials/0", "/tuner/nowhere"):
        text = browser.get(f"{sent}{path}", headers=cookie).text
        links = [link for link in _LINK.findall(text) if not link.startswith(("?", "#"))]
        assert len(links) > 5
        assert [link for link in links if not link.startswith(f"{prefix}/")] == []
        assert f'data-path="{prefix}/"' in text
        files = [link for link in links if "/static/" in link]
        assert [browser.get(sent + link.removeprefix(prefix)).status_code for link in files] == [200] * 3
    assert browser.get(sent or "/", headers=cookie).status_code == 200


def test_redirects_of_sign_out_expired_sessions_and_actions_are_below_the_prefix(tmp_path: Path, users: Path) -> None:
    browser = below(new_storage(tmp_path), users)
    html = {"accept": "text/html", "origin": HERE, "referer": f"{HERE}{PREFIX}/tuner/studies/1"}
    expired = browser.get("/tuner/studies/1?page=2", headers=html, follow_redirects=False)
    assert expired.headers["location"] == f"{PREFIX}/tuner/signin?next=%2Ftuner%2Fstudies%2F1%3Fpage%3D2"
    refused = browser.post("/tuner/actions/studies/1/stop", headers=html, follow_redirects=False)
    assert refused.headers["location"] == f"{PREFIX}/tuner/signin?next=%2Ftuner%2Fstudies%2F1"
    cookie = browser.post("/tuner/signin", data={"name": "admin", "password": PASSWORD}, headers=html, follow_redirects=False).headers[
        "set-cookie"
    ]
    signed_in = html | {"cookie": cookie.partition(";")[0]}
    left = browser.post(f"{PREFIX}/tuner/signout", headers=signed_in, follow_redirects=False)
    assert left.headers["location"] == f"{PREFIX}/tuner/signin"
    assert f"Path={PREFIX};" in left.headers["set-cookie"]


def test_the_printed_link_is_below_the_prefix_and_signs_in(flowers: storages.Storage, users: Path) -> None:
    with server.beside(flowers, Settings(users=users, root_path=PREFIX), 0) as served:
        assert served.link.startswith(f"{served.address}/?token=")
        assert served.address.endswith(PREFIX)
    this = authentication_of(users, root_path=PREFIX)
    assert this.start_token is not None
    browser = TestClient(app.build(flowers, this), base_url=HERE)
    opened = browser.get(f"{PREFIX}/?token={this.start_token.value}", follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, f"{PREFIX}/")
    assert browser.get(f"{PREFIX}/").status_code == 200


def test_streams_and_the_api_answer_below_the_prefix(flowers: storages.Storage, users: Path) -> None:
    this = authentication_of(users, root_path=PREFIX, max_stream_seconds=0.1)
    assert this.start_token is not None
    browser = TestClient(app.build(flowers, this), base_url=HERE, headers={"authorization": f"Bearer {this.start_token.value}"})
    stream = browser.get(f"{PREFIX}/", headers={"accept": "text/event-stream"}).text
    parts = json.loads(stream.partition("data: ")[2].splitlines()[0])
    assert f'href="{PREFIX}/tuner/studies/1"' in parts["cards"]
    assert browser.get(f"{PREFIX}/tuner/api/v1/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert browser.get(f"{PREFIX}/tuner/api/v1/studies").status_code == 200
    assert browser.get(f"{PREFIX}/healthz").text == "alive\n"
    assert browser.get(f"{PREFIX}/metrics").status_code == 200


def test_only_a_trusted_proxy_names_the_prefix(flowers: storages.Storage, users: Path) -> None:
    forwarded = FORWARDED | {"x-forwarded-prefix": "/tools/tuner/"}
    text = behind(flowers, users, "10.1.2.3").get("/tuner/signin", headers=forwarded).text
    assert 'action="/tools/tuner/tuner/signin"' in text
    stranger = behind(flowers, users, "203.0.113.66").get("/tuner/signin", headers=forwarded | {"host": "tuner.example"}).text
    assert 'action="/tuner/signin"' in stranger


def test_a_cookie_below_a_prefix_over_tls_is_for_this_path_only(flowers: storages.Storage, users: Path) -> None:
    proxied = behind(flowers, users, "10.1.2.3")
    headers = FORWARDED | {"x-forwarded-prefix": "/tools", "origin": FAR}
    answer = proxied.post("/tuner/signin", data={"name": "viewer", "password": PASSWORD}, headers=headers, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Secure-tuner-443=")
    assert "Path=/tools;" in cookie
    back = proxied.get("/tuner/workers", headers=headers | {"cookie": cookie.partition(";")[0]})
    assert back.status_code == 200


@pytest.mark.parametrize("given", ["//evil.example", "/a/../b", "/a b", "https://evil.example/", '/a"b', "/a;b"])
def test_a_prefix_that_is_no_path_is_ignored(flowers: storages.Storage, users: Path, given: str) -> None:
    text = behind(flowers, users, "10.1.2.3").get("/tuner/signin", headers=FORWARDED | {"x-forwarded-prefix": given}).text
    assert 'action="/tuner/signin"' in text


def test_the_optuna_dashboard_explains_itself_below_a_prefix(flowers: storages.Storage, users: Path) -> None:
    browser = below(flowers, users)
    assert sign_in(browser, "viewer") == 303
    cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    answer = browser.get(f"{PREFIX}/dashboard/studies/1", headers=cookie | {"accept": "text/html"})
    assert answer.status_code == 404
    assert "works only at the root of a host name or port" in answer.text


@pytest.mark.parametrize(("given", "path"), [(None, ""), ("", ""), ("/", ""), ("/user/me/proxy/8080/", PREFIX), (" /tuner ", "/tuner")])
def test_a_root_path_loses_the_slash_at_its_end(given: str | None, path: str) -> None:
    assert settings.read_root_path(given) == path


@pytest.mark.parametrize("given", ["user/me", "https://hub.example.com/user/me/", "//me", "/a/../b", "/a b"])
def test_a_root_path_that_is_no_path_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(RequestError, match=r"--root-path is .*; expected the path .*: /user/me/proxy/8080 for https://hub"):
        settings.read_root_path(given)

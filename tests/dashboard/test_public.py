"""A dashboard for other machines: host names, proxies, TLS and headers."""

import datetime as dt
import ssl
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.testclient import TestClient

from tests.dashboard.clients import PASSWORD, authentication_of, sign_in
from tuner.dashboard import app, server
from tuner.dashboard.settings import Settings
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

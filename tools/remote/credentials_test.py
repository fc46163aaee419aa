import datetime
import stat

import jwt
import pytest
from cryptography import x509

from tools.remote import credentials


@pytest.fixture
def folder(tmp_path):
    credentials.make(tmp_path / "tls", ["builds.example.com", "10.0.0.1"])
    return tmp_path / "tls"


def certificate(file):
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_certificates_are_the_authoritys(folder):
    authority = certificate(folder / "ca.pem")
    for role in ("server", "worker", "client"):
        certificate(folder / f"{role}.pem").verify_directly_issued_by(authority)


def test_server_has_the_names_that_it_is_asked_by(folder):
    names = certificate(folder / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"builds.example.com", "localhost"}
    assert {str(each) for each in names.get_values_for_type(x509.IPAddress)} == {"10.0.0.1", "127.0.0.1"}


def test_roles_cannot_make_certificates(folder):
    for role in ("server", "worker", "client"):
        basic = certificate(folder / f"{role}.pem").extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not basic.ca


def test_tokens_name_their_role(folder):
    secret = (folder / "token.secret").read_text()
    for role in ("worker", "client"):
        claims = jwt.decode((folder / f"{role}.token").read_text(), secret, algorithms=["HS256"])
        assert claims["sub"] == role
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(credentials.token("0" * 64, "client"), secret, algorithms=["HS256"])


def test_all_is_for_the_user_alone(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_kept_while_it_is_of_use(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    credentials.make(folder, ["10.0.0.1"])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_made_anew_for_another_host(folder):
    before = (folder / "server.pem").read_bytes()
    credentials.make(folder, ["10.0.0.2"])
    assert (folder / "server.pem").read_bytes() != before


def test_made_anew_when_it_ends_soon(folder, monkeypatch):
    monkeypatch.setattr(credentials, "_DAYS", 20)
    credentials.make(folder, ["10.0.0.2"])
    before = (folder / "server.pem").read_bytes()
    monkeypatch.undo()
    credentials.make(folder, ["10.0.0.2"])
    assert (folder / "server.pem").read_bytes() != before
    left = certificate(folder / "server.pem").not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=300)


def test_what_a_client_tells_bazel(folder):
    text = (folder / "client.bazelrc").read_text()
    assert f"--tls_client_key={folder}/client.key" in text
    assert (folder / "client.token").read_text() in text
    assert "worker" not in text


def test_what_a_worker_tells_buildbox(folder):
    assert credentials.worker_options(folder, "cas") == [
        f"--cas-server-cert={folder}/ca.pem",
        f"--cas-client-cert={folder}/worker.pem",
        f"--cas-client-key={folder}/worker.key",
        f"--cas-access-token={folder}/worker.token",
    ]


def test_all_that_a_role_shows_is_there(folder):
    for role in ("worker", "client"):
        credentials.check(folder, role)
    (folder / "worker.token").unlink()
    credentials.check(folder, "client")
    with pytest.raises(ValueError, match=r"tls: worker.token not there; copy ca.pem, worker.pem, .* from the `tls`"):
        credentials.check(folder, "worker")


@pytest.mark.parametrize("name", ["client.key", "client.token"])
def test_secret_that_others_may_read(folder, name):
    (folder / name).chmod(0o640)
    with pytest.raises(ValueError, match=f"others than you may read .*{name}: chmod 600"):
        credentials.check(folder, "client")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (credentials.token("0" * 64, "client"), "holds the token of a client, not of a worker"),
        (credentials.token("0" * 64, "worker", datetime.timedelta(seconds=-1)), "has expired"),
        ("rubbish", "holds no token"),
    ],
)
def test_token_of_no_use(folder, text, said):
    (folder / "worker.token").write_text(text)
    with pytest.raises(ValueError, match=f"worker.token {said}.*: copy worker.token anew .* after an `up` of that one"):
        credentials.check(folder, "worker")

import pytest

from tools.remote.fleet import joining

FILES = ("ca.pem", "worker.pem", "worker.key", "worker.token")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).touch(mode=0o600)
    return tmp_path


def test_what_is_shown():
    assert joining.shown("cas", "/tls") == [
        "--cas-server-cert=/tls/ca.pem",
        "--cas-client-cert=/tls/worker.pem",
        "--cas-client-key=/tls/worker.key",
        "--cas-access-token=/tls/worker.token",
    ]
    assert joining.shown("bots", "") == []
    assert joining.url("grpcs://grpc.far:50051") == "https://grpc.far:50051"


def test_credentials_are_asked_for_and_there(folder):
    joining.check("grpcs://far:50051", str(folder))
    joining.check("grpc://far:50051", "")
    for scheduler, credentials in (("grpcs://far:50051", ""), ("grpc://far:50051", str(folder))):
        with pytest.raises(ValueError, match="grpcs:// takes credentials"):
            joining.check(scheduler, credentials)
    (folder / "worker.token").unlink()
    with pytest.raises(ValueError, match="worker.token not there; copy ca.pem"):
        joining.check("grpcs://far:50051", str(folder))


def test_key_that_others_may_read(folder):
    (folder / "worker.key").chmod(0o640)
    with pytest.raises(ValueError, match="others than you may read .*worker.key: chmod 600"):
        joining.check("grpcs://far:50051", str(folder))

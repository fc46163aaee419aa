import socket
from pathlib import Path

import pytest

from tools.remote import credentials
from tools.remote.fleet import joining
from tools.remote.settings import Settings

FAR = "grpcs://grpc.far:50051"


@pytest.fixture
def folder(tmp_path):
    credentials.make(tmp_path, [])
    return tmp_path


def test_what_buildbox_calls_it():
    assert joining.url(FAR) == "https://grpc.far:50051"


def test_a_first_worker_and_the_next(folder):
    first = joining.settings(None, FAR, folder, "5G").with_worker("gpu", (0,))
    assert (first.scheduler, first.credentials, first.quota) == (FAR, str(folder), "5G")
    second = joining.settings(first, FAR, folder, "30G").with_worker("gpu", (1,))
    assert [each.name for each in second.all_workers()] == ["gpu-1", "gpu-2"]
    assert second.quota == "5G"


@pytest.mark.parametrize(
    ("kept", "its"), [(Settings(), "a scheduler of its own"), (Settings(scheduler="grpc://b:5000"), "grpc://b:5000")]
)
def test_a_folder_is_of_one_scheduler(folder, kept, its):
    with pytest.raises(ValueError, match=f"is of {its}, not of {FAR}: name another folder, --home"):
        joining.settings(kept, FAR, folder, "30G")


@pytest.mark.parametrize(("scheduler", "given"), [(FAR, None), ("grpc://far:50051", Path("/tls"))])
def test_tls_takes_credentials_and_nothing_else_does(scheduler, given):
    with pytest.raises(ValueError, match=r"grpcs:// takes credentials .* grpc:// takes none"):
        joining.settings(None, scheduler, given, "30G")
    assert joining.settings(None, "grpc://far:50051", None, "30G").credentials == ""


def test_credentials_are_those_of_a_worker(folder):
    part = joining.settings(None, FAR, folder, "30G")
    (folder / "worker.token").unlink()
    with pytest.raises(ValueError, match=r"worker.token not there; copy ca.pem"):
        joining.check(part)


def test_a_scheduler_that_is_not_there(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{address} does not answer"):
            joining.check(joining.settings(None, f"grpcs://{address}", folder, "30G"))

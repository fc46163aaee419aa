"""The wire between two hosts is cut while a test runs."""

import time

import pytest

from tools.remote import trial
from tools.remote.fleet import hosts
from tools.remote.fleet.part import Part
from tools.remote.settings import Settings

SILENCE_SECONDS = 12
SLOW = 'echo "$TRAINYARD_WORKER" >> "/dev/shm/$MARK"; sleep 8; echo over\n' + trial.REPORT
TESTS = {"cpu_test": (SLOW, {"test.Pool": "cpu"}), "gpu_test": (SLOW, {"test.Pool": "gpu"})}


@pytest.fixture(scope="module")
def both():
    with hosts.pair() as pair:
        if pair[0] == pair[1]:
            pytest.skip("no network namespaces on this machine")
        yield pair


@pytest.fixture(scope="module")
def settings(both):
    return Settings(host=both[0].address, port=trial.free_port(), silence_seconds=SILENCE_SECONDS)


@pytest.fixture(scope="module")
def near(both, settings):
    """The part with the scheduler."""
    part = Part(both[0])
    try:
        part.up(settings.with_worker("cpu"))
        yield part
    finally:
        part.remove()


@pytest.fixture
def wire(both):
    """Cuts and mends the wire."""

    class Wire:
        def set(self, state):
            both[1].do("/usr/sbin/ip", "link", "set", "wire", state)

    yield Wire()
    Wire().set("up")


@pytest.fixture
def mark():
    with trial.mark() as file:
        yield file


@pytest.fixture
def client(request, near, both, tmp_path):
    """A workspace on one of the hosts."""
    (tmp_path / "workspace").mkdir()
    made = trial.Workspace(tmp_path / "workspace", TESTS, within=both[request.param].within)
    yield made
    made.close()


@pytest.mark.parametrize("client", [1], indirect=True)
def test_client_is_cut_off(settings, client, wire, mark):
    """It hears of it by its own questions, and comes back before the scheduler gives its test up."""
    process = client.start(settings, f"--test_env=MARK={mark.name}", targets=["//:cpu_test"])
    trial.wait_for(mark.exists, 60)
    wire.set("down")
    time.sleep(25)
    wire.set("up")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (client.root / "bazel-testlogs/cpu_test/test.log").read_text().endswith("over\n")
    assert mark.read_text() == "cpu-1\n"


@pytest.mark.parametrize("client", [0], indirect=True)
def test_worker_is_cut_off(settings, near, both, client, wire, mark):
    """Its test is given to another; when it is back, it takes tests again."""
    far = Part(both[1])
    try:
        result = far.run("join", f"--scheduler={settings.url}", "--pool=gpu")
        assert result.returncode == 0, result.stderr
        name = f"gpu-1@{both[1].name}"
        trial.wait_for(lambda: near.state(name) == "idle", 30)
        process = client.start(settings, f"--test_env=MARK={mark.name}", targets=["//:gpu_test"])
        trial.wait_for(mark.exists, 60)
        wire.set("down")
        trial.wait_for(lambda: near.state(name) == "dead", SILENCE_SECONDS + 15)
        assert near.run("add-worker", "--pool=gpu").returncode == 0
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert mark.read_text() == f"{name}\ngpu-1\n"
        wire.set("up")
        trial.wait_for(lambda: near.state(name) == "idle", 60)
    finally:
        far.remove()

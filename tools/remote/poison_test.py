"""A real cluster whose disk lies: what is not what its digest says is no result, and `verify` mends it."""

import hashlib

import pytest

from tools.remote import blobs, trial

TEXT = "precious data\n"
SCRIPT = "cat data.txt\n" + trial.REPORT


@pytest.fixture(scope="module")
def cluster():
    with trial.running("poison", [("cpu", ())]) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(
        tmp_path_factory.mktemp("workspace"), {"a_test": (SCRIPT, {"test.Pool": "cpu"})}, data=["data.txt"]
    )
    (made.root / "data.txt").write_text(TEXT)
    yield made
    made.close()


def damage(cluster, content):
    """Changes a blob on the disk of the store, without its name."""
    digest = hashlib.sha256(content).hexdigest()
    file = cluster.places.data / "casd/cas/objects" / digest[:2] / digest[2:]
    file.chmod(0o644)
    file.write_bytes(content.replace(b"precious", b"poisoned"))
    assert blobs.is_damaged(file)


def mend(cluster):
    return len(list(blobs.remove_damaged(blobs.files(cluster.places))))


def test_damaged_result_is_refused_and_mended(cluster, workspace):
    assert workspace.test(cluster.settings()).status == 0
    log = (workspace.root / "bazel-testlogs/a_test/test.log").read_bytes()
    assert TEXT.encode() in log
    damage(cluster, log)
    workspace.forget()
    outcome = workspace.test(cluster.settings())
    assert outcome.status != 0
    assert outcome.tests == {}
    assert f"Expected digest '{hashlib.sha256(log).hexdigest()}" in outcome.said
    assert mend(cluster) == 1
    outcome = workspace.test(cluster.settings())
    assert outcome.status == 0, outcome.said
    assert TEXT in outcome.log("a_test")


def test_damaged_input_is_mended_while_the_cluster_runs(cluster, workspace):
    damage(cluster, TEXT.encode())
    assert mend(cluster) == 1
    workspace.forget()
    outcome = workspace.test(cluster.settings(), "--test_env=ROUND=2")
    assert outcome.status == 0, outcome.said
    assert TEXT in outcome.log("a_test")

"""The disk of the store of blobs is full: tests fail or wait, none gets a wrong result, and room mends it."""

import time

import pytest

from tools.remote import blobs, trial
from tools.remote.fleet import hosts
from tools.remote.fleet.part import Part
from tools.remote.settings import Settings

MB = 1_000_000
# Random, so that no two runs have the same; the test says what it wrote.
SCRIPT = f'head -c {5 * MB} /dev/urandom > "$TEST_UNDECLARED_OUTPUTS_DIR/big"; echo over\n' + trial.REPORT
TESTS = {f"n{n}_test": (SCRIPT, {"test.Pool": "cpu"}) for n in range(5)}


@pytest.fixture
def part():
    with hosts.pair() as (host, other):
        if host == other:
            pytest.skip("no mount namespaces on this machine")
        made = Part(host)
        disk = made.home / "data" / "casd"
        disk.mkdir(parents=True)
        try:
            # (of memory, and of its own: nobody else sees it)
            host.do("mount", "-t", "tmpfs", "-o", f"size={blobs.RESERVED_BYTES + 100 * MB}", "tmpfs", str(disk))
            yield made
        finally:
            made.run("down")
            host.run("umount", "--lazy", str(disk))
            made.remove()


def test_full_disk(part, tmp_path):
    settings = Settings(host=part.host.address, port=trial.free_port())
    part.up(settings.with_worker("cpu"))
    (tmp_path / "workspace").mkdir()
    workspace = trial.Workspace(tmp_path / "workspace", TESTS, within=part.host.within)
    try:
        outcome = workspace.test(settings)
        assert outcome.status == 0, outcome.said
        filler = part.home / "data/casd/filler"
        part.host.do("sh", "-c", f"head -c {101 * MB} /dev/zero > '{filler}'")
        process = workspace.start(settings, "--test_env=ROUND=2")
        trial.wait_for(
            lambda: any("free: below 2 GB no more are taken" in each for each in part.status()["warnings"]), 30
        )
        trial.wait_for(lambda: "OutOfSpace" in (part.home / "log/scheduler.log").read_text(), 60)
        assert part.status()["health"] == "degraded"
        time.sleep(2)
        part.host.do("rm", str(filler))
        # (what met the full disk has failed, or is done anew with inputs brought again)
        _, said = process.communicate(timeout=60)
        tests = workspace.outcome(process.returncode, said).tests.values()
        assert process.returncode or [each["status"] for each in tests] == ["PASSED"] * len(TESTS), said
        outcome = workspace.test(settings, "--test_env=ROUND=3")
        assert outcome.status == 0, outcome.said
        assert {each["status"] for each in outcome.tests.values()} == {"PASSED"}
    finally:
        workspace.close()

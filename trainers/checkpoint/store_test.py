import errno
import itertools
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from testing.distributed.case import DistributedTest
from trainers.checkpoint import store as store_module
from trainers.checkpoint.crash_cases import kill_at_operation, kill_in_a_save
from trainers.checkpoint.store import MANIFEST, CheckpointStore
from trainers.parallel.ranks import RankError, Ranks


def contents(step):
    """Files of a step: their bytes depend on it."""
    return {f"{name}.bin": random.Random(f"{step} {name}").randbytes(2000 + step) for name in ("a", "b", "c")}


def writer(step, pause=0.0):
    def write(folder):
        for name, data in contents(step).items():
            with (folder / name).open("wb") as file:
                for start in range(0, len(data), 500):
                    file.write(data[start : start + 500])
                    file.flush()
                    time.sleep(pause)
        return contents(step)

    return write


def save(store, *steps, **metadata):
    for step in steps:
        checkpoint = store.save(step, writer(step), metadata)
    return checkpoint


def steps(store):
    return [checkpoint.step for checkpoint in store.scan()[0]]


def assert_holds(checkpoint):
    for name, data in contents(checkpoint.step).items():
        assert (checkpoint.path / name).read_bytes() == data


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "run" / "checkpoints")


def test_the_last_of_many_saves_of_a_step_is_the_newest(store):
    """The first is deleted after the second, and its name free for the third."""
    for time_of_save in range(4):
        save(store, 5, saved=time_of_save)
        latest = store.latest()
        assert latest is not None and latest.metadata == {"saved": time_of_save}
    assert [path.name for path in store.folder.glob("step-*")] == ["step-0000000005.4"]


def test_save_and_find(store):
    assert store.latest() is None and store.scan() == ([], [])
    saved = save(store, 3, 20, 100, loss=1.5, kind=("full", 1))
    assert steps(store) == [3, 20, 100]
    latest = store.latest()
    assert latest == saved
    assert latest.path.name == "step-0000000100" and latest.metadata == {"loss": 1.5, "kind": ["full", 1]}
    assert {name: file.size for name, file in latest.files.items()} == {"a.bin": 2100, "b.bin": 2100, "c.bin": 2100}
    assert_holds(latest)
    assert {path.name for path in store.folder.iterdir() if path.name.startswith(".")} == {".lock"}


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_loop(path):
    path.unlink()
    path.symlink_to(path)


DAMAGES = {
    "altered": (lambda path: flip_bit(path / "b.bin"), "b.bin was altered"),
    "truncated": (lambda path: os.truncate(path / "b.bin", 17), "b.bin has 17 bytes, of 2009"),
    "file missing": (lambda path: (path / "b.bin").unlink(), "b.bin is missing"),
    "manifest missing": (lambda path: (path / MANIFEST).unlink(), "manifest.json is missing"),
    "manifest torn": (lambda path: os.truncate(path / MANIFEST, 40), "manifest.json is torn"),
    "manifest empty": (lambda path: os.truncate(path / MANIFEST, 0), "manifest.json is torn"),
    "manifest altered": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"step": 9', '"step": 8')),
        "manifest.json was altered",
    ),
    "manifest replaced": (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json is torn"),
    "manifest unreadable": (
        lambda path: replace_by_folder(path / MANIFEST),
        "manifest.json cannot be read: .*directory",
    ),
    "file unreadable": (lambda path: replace_by_loop(path / "b.bin"), "b.bin cannot be read: .*symbolic links"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_passed_over_by_name(store, kind, caplog):
    save(store, 7, 9)
    damage, reason = DAMAGES[kind]
    path = store.folder / "step-0000000009"
    damage(path)
    before = sorted(each.name for each in path.iterdir())
    with caplog.at_level(logging.WARNING):
        assert store.latest().step == 7
    assert re.search(f"passed over {path}: {reason}", caplog.text)
    assert sorted(each.name for each in path.iterdir()) == before  # nothing is deleted in silence
    # Training goes on from 7 and comes by 9 again.
    assert save(store, 9).path.name == "step-0000000009.2"
    latest = store.latest()
    assert (latest.step, latest.attempt) == (9, 2)
    assert_holds(latest)


def test_newer_format_is_passed_over(store, monkeypatch):
    save(store, 1)
    monkeypatch.setattr(store_module, "FORMAT", 2)
    save(store, 2)
    monkeypatch.undo()
    (passed_over,) = store.scan()[1]
    assert passed_over.path.name == "step-0000000002"
    assert passed_over.reason == "its format is 2, and this version reads 1"


def test_a_step_saved_again_supersedes_the_first(store):
    save(store, 5)
    save(store, 5, again=True)
    ((checkpoint,), passed_over) = store.scan()
    assert checkpoint.metadata == {"again": True} and checkpoint.path.name == "step-0000000005.2" and not passed_over


def test_keep_last(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 1, 2, 3, 4)
    assert steps(store) == [3, 4]
    flip_bit(tmp_path / "step-0000000004" / MANIFEST)
    save(store, 5)  # a damaged one is not counted as kept
    assert steps(store) == [3, 5]
    assert save(store, 2).path.exists(), "what was just saved stays, though older steps do not"


def test_keep_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best="loss")
    for step, loss in enumerate((3.0, 2.0, 2.5, float("nan"), 2.75)):
        save(store, step, loss=loss)
    save(store, 5)  # has none
    assert steps(store) == [1, 5]


def test_retention_deletes_after_the_newer_is_complete(tmp_path):
    """A failed save costs no checkpoint."""
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1)

    def fail(folder):
        (folder / "a.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "a.bin"))

    with pytest.raises(RankError, match=r"^rank 0: OSError: .*No space left on device.*a\.bin"):
        store.save(2, fail)
    assert_holds(store.latest())
    assert steps(store) == [1]
    assert not list(tmp_path.glob(".writing-*")), "a full disk gets its space back"


def test_disk_full_at_the_manifest(store, monkeypatch):
    save(store, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.json, "dump", full)
    with pytest.raises(RankError, match="No space left"):
        save(store, 2)
    monkeypatch.undo()
    assert steps(store) == [1] and store.scan()[1] == []
    assert save(store, 2).step == 2


def test_the_way_to_a_checkpoint_is_flushed(store, monkeypatch):
    """A name is safe from a power cut when the folder that holds it is flushed: also those of new folders above."""
    flushed = []
    fsync = os.fsync

    def flush(descriptor):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    saved = save(store, 1)
    assert flushed[-1] == saved.path.parent
    assert {store.folder.parent, store.folder.parent.parent} < set(flushed)
    assert {path.name for path in flushed} > {*contents(1), MANIFEST}
    flushed.clear()
    save(store, 2)
    assert store.folder in flushed and store.folder.parent not in flushed


def test_two_writers(store):
    """The second is refused; the lock goes with its owner, not with a fork that outlives the save."""

    def write_twice(folder):
        with pytest.raises(RankError, match="another process is saving to"):
            save(CheckpointStore(store.folder), 2)
        worker.start()
        return []

    stop = multiprocessing.get_context("fork").Event()
    worker = multiprocessing.get_context("fork").Process(target=stop.wait)
    try:
        store.save(1, write_twice)
        save(store, 3)
    finally:
        stop.set()
        worker.join()
    assert steps(store) == [1, 3]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep_last is 0"):
        CheckpointStore(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="step is -1"):
        CheckpointStore(tmp_path).save(-1, lambda folder: [])


def check_after_kill(store, announced):
    """The newest is intact and at least what was announced as saved; nothing else looks like a checkpoint."""
    checkpoints, passed_over = store.scan()
    assert all(each.path.name.startswith((".writing-", ".deleting-")) for each in passed_over)
    for checkpoint in checkpoints:
        assert store.damage(checkpoint) is None
        assert_holds(checkpoint)
    assert checkpoints[-1].step in (announced, announced + 1)
    return checkpoints[-1].step, len(passed_over)


def test_killed_at_every_file_operation(tmp_path):
    """Two are kept, so that the save makes, flushes, renames and deletes."""
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 1, 2)
    outcomes = []
    for operation in range(1000):
        shutil.rmtree(tmp_path)
        save(store, 1, 2)
        if not kill_at_operation(lambda: save(store, 3), operation):
            break
        outcomes.append(check_after_kill(store, 2))
        save(store, 4)
        assert steps(store) == [outcomes[-1][0], 4] and store.scan()[1] == []
    assert operation > 30
    # Complete from one operation on, and no later; left-overs of the writing before it, of the deleting after it.
    newest = [step for step, _ in outcomes]
    assert newest == sorted(newest) and set(newest) == {2, 3}
    assert {count for step, count in outcomes if step == 2} == {0, 1}
    assert {count for step, count in outcomes if step == 3} == {0, 1}


def test_killed_at_random_moments(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    step, inside = 0, 0
    moments = random.Random(1)

    def saves():
        for number in itertools.count(step + 1):
            yield store.save(number, writer(number, pause=0.001))

    for _ in range(25):
        done = kill_in_a_save(saves, moments.uniform(0, 2))
        step, leftovers = check_after_kill(store, step + done)
        inside += leftovers > 0
    assert inside > 12, "most kills fall into a save"


class TestRanks(DistributedTest):
    world_size = [2, 4]
    timeout = 30

    def test_all_ranks_write_one_checkpoint(self, tmp_path):
        store = CheckpointStore(tmp_path, Ranks.of_their_own())

        def write(folder):
            (folder / f"rank-{self.rank}.bin").write_bytes(bytes([self.rank]) * 1000)
            return [f"rank-{self.rank}.bin"]

        saved = store.save(1, write)
        store.save(2, write)
        assert len(saved.files) == self.world_size
        if self.rank == 0:
            flip_bit(tmp_path / "step-0000000002" / f"rank-{self.world_size - 1}.bin")
        assert store.latest() == saved  # found by whichever rank reads that file

    def test_a_failure_on_one_rank_is_raised_on_all(self, tmp_path):
        store = CheckpointStore(tmp_path, Ranks.of_their_own())
        save_empty = store.save(1, lambda folder: [])

        def write(folder):
            if self.rank == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return []

        with pytest.raises(RankError, match=r"^rank 1: OSError: \[Errno 28\] No space left on device$"):
            store.save(2, write)
        assert store.scan() == ([save_empty], [])

        unreadable = Path("/dev/null/checkpoints")
        with pytest.raises(RankError, match=r"^rank 0: NotADirectoryError"):
            CheckpointStore(unreadable, store.ranks).save(1, write)

    def test_two_writers_on_all_ranks(self, tmp_path):
        store = CheckpointStore(tmp_path, Ranks.of_their_own())

        def write(folder):
            with pytest.raises(RankError, match="another process is saving"):
                CheckpointStore(tmp_path, Ranks()).save(2, lambda folder: [])
            return []

        store.save(1, write)


def test_manifest_is_for_people_too(store):
    manifest = json.loads((save(store, 1, samples=128).path / MANIFEST).read_text())
    assert manifest["metadata"] == {"samples": 128} and manifest["files"]["a.bin"]["size"] == 2001

import multiprocessing
import os
import signal
import stat
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from testing.runner.locks import lock_folder, reserve

FOUR = [f"gpu-{i}" for i in range(4)]


def _hold(connection: Connection, folder: Path, names: list[str], count: int, timeout: float, seconds: float) -> None:
    try:
        taken = reserve(names, count, folder, timeout)
    except TimeoutError as error:
        connection.send(str(error))
        return
    connection.send((taken, time.monotonic()))
    time.sleep(seconds)
    connection.send(time.monotonic())


class Holder:
    """A process that takes devices, holds them and ends."""

    def __init__(self, folder: Path, names: list[str], count: int, timeout: float = 10, seconds: float = 0) -> None:
        # Forked: a fresh interpreter would take longer than what is measured, and this process has no threads.
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_hold, args=(theirs, folder, names, count, timeout, seconds))
        self.process.start()
        theirs.close()

    def answer(self):
        return self.connection.recv()

    def end(self) -> None:
        self.process.join(10)
        self.process.close()
        self.connection.close()


def test_takes_the_first_free_devices_in_the_order_given(tmp_path: Path) -> None:
    first = Holder(tmp_path, FOUR, 2, seconds=2)
    assert first.answer()[0] == ["gpu-0", "gpu-1"]
    second = Holder(tmp_path, FOUR[::-1], 1)
    assert second.answer()[0] == ["gpu-3"]
    third = Holder(tmp_path, FOUR, 1)
    assert third.answer()[0] == ["gpu-2"]
    for holder in (first, second, third):
        holder.end()


def test_waits_until_enough_are_free(tmp_path: Path) -> None:
    first = Holder(tmp_path, FOUR, 3, seconds=0.5)
    assert first.answer()[0] == FOUR[:3]
    second = Holder(tmp_path, FOUR, 2)
    taken, at = second.answer()
    assert taken == FOUR[:2]
    assert at >= first.answer()
    first.end()
    second.end()


def test_gives_up_and_names_who_to_ask(tmp_path: Path) -> None:
    first = Holder(tmp_path, FOUR[:2], 2, seconds=2)
    first.answer()
    with pytest.raises(TimeoutError, match=r"waited 0 s for 2 of gpu-0, gpu-1, 0 free: .* hold the locks in"):
        reserve(FOUR[:2], 2, tmp_path, timeout=0.3)
    first.process.terminate()
    first.end()


def test_devices_of_a_killed_process_are_free(tmp_path: Path) -> None:
    first = Holder(tmp_path, FOUR, 4, seconds=60)
    first.answer()
    os.kill(first.process.pid, signal.SIGKILL)
    second = Holder(tmp_path, FOUR, 4)
    assert second.answer()[0] == FOUR
    first.end()
    second.end()


def test_many_that_need_several_each_get_them_in_turn(tmp_path: Path) -> None:
    holders = [Holder(tmp_path, FOUR, 1 + i % 4, timeout=30, seconds=0.05) for i in range(10)]
    spans = []
    for holder in holders:
        taken, start = holder.answer()
        spans.append((set(taken), start, holder.answer()))
        holder.end()
    for i, (mine, start, stop) in enumerate(spans):
        for theirs, other_start, other_stop in spans[:i]:
            assert not mine & theirs or stop <= other_start or other_stop <= start


def test_says_once_that_it_waits(tmp_path: Path) -> None:
    first = Holder(tmp_path, ["gpu-0"], 1, seconds=1)
    first.answer()
    messages: list[str] = []
    reserve(["gpu-0"], 1, tmp_path, timeout=10, report=messages.append)
    assert messages == ["waiting for 1 of gpu-0: 0 free"]
    first.end()


def test_other_users_may_take_devices_too(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        reserve(["gpu-0"], 1, tmp_path / "locks", timeout=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "locks" / "gpu-0").stat().st_mode) == 0o666


def test_the_folder_is_shared_between_sandboxes() -> None:
    assert lock_folder().parent == Path("/dev/shm")


def test_a_folder_left_closed_is_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o755)
    reserve(["gpu-0"], 1, folder, timeout=1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777


def test_a_folder_that_another_user_keeps_closed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=rf"chmod 1777 {tmp_path}"):
        reserve(["gpu-0"], 1, tmp_path, timeout=1)

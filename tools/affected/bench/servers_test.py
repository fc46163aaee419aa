import mmap
import os
import subprocess
from pathlib import Path

from tools.affected.bench import servers


def test_servers_below_a_folder_are_ended_and_no_other(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as inside, subprocess.Popen(["sleep", "1000"]) as outside:
        try:
            for place, process in (("mine/cache/tree.output", inside), ("other/output", outside)):
                file = tmp_path / place / "server/server.pid.txt"
                file.parent.mkdir(parents=True)
                file.write_text(str(process.pid))
            servers.end(tmp_path / "mine")
            assert inside.poll() is not None
            assert outside.poll() is None
            servers.end(tmp_path / "mine")  # (nothing is left to end)
        finally:
            inside.kill()
            outside.kill()


def test_peak_is_of_memory_that_was_used_by_now() -> None:
    before = servers.peak_mb_of(os.getpid())
    assert before > 1
    with mmap.mmap(-1, 2 << 30) as block:
        assert servers.peak_mb_of(os.getpid()) < before + 1024  # (asked for, not used)
        block[: 256 << 20] = bytes(256 << 20)
    # (the block is gone; 128, because Linux counts pages per core and adds them up now and then)
    assert servers.peak_mb_of(os.getpid()) > before + 128

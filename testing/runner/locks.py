"""One lock per device and host, because Bazel's `resources:gpu:N` counts devices and assigns none."""

import fcntl
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def lock_folder() -> Path:
    """Where the locks of this host lie: shared memory, which sandboxes share, unlike their own /tmp."""
    shared = Path("/dev/shm")
    parent = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return parent / "trainyard-devices"


def reserve(
    names: Sequence[str],
    count: int,
    folder: Path,
    timeout: float,
    report: Callable[[str], None] = lambda message: None,
) -> list[str]:
    """Takes `count` of the named devices for as long as this process, or a child of it, lives.

    The locks are flocks on files that stay open: the kernel frees them when the last process
    that inherited them is gone, whatever it died of.

    Args:
        names: lock names of the devices, for instance "gpu-0".
        count: how many are needed.
        folder: where the lock files lie.
        timeout: seconds to wait for devices that others use.
        report: is told once that it waits.

    Returns:
        The names taken, in the order of `names`.

    Raises:
        TimeoutError: others kept them.
      ValueError: another user keeps the folder for himself.
    """
    _make_shared(folder)
    give_up = time.monotonic() + timeout
    waiting = False
    while True:
        held = _try_all(names, count, folder)
        if len(held) == count:
            return list(held)
        # All or nothing: whoever kept a part while waiting could wait for another one that does the same.
        for descriptor in held.values():
            os.close(descriptor)
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"waited {timeout:.0f} s for {count} of {', '.join(names)}, {len(held)} free: other processes hold "
                f"the locks in {folder} (see them with `fuser {folder}/*`)"
            )
        if not waiting:
            report(f"waiting for {count} of {', '.join(names)}: {len(held)} free")
            waiting = True
        time.sleep(random.uniform(0.05, 0.25))


def _make_shared(folder: Path) -> None:
    """Makes a folder where every user of the host may add files, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    # Also where it was there: whoever made it may have been ended before this line.
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)
    elif not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{folder}, where processes of all users lock devices, belongs to user {folder.stat().st_uid}, who keeps "
            f"others out: have it opened (chmod 1777 {folder}) or removed"
        )


def _try_all(names: Sequence[str], count: int, folder: Path) -> dict[str, int]:
    """Locks up to `count` devices without waiting; name -> descriptor."""
    held: dict[str, int] = {}
    for name in names:
        if len(held) == count:
            break
        descriptor = _open_shared(folder / name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            held[name] = descriptor
    return held


def _open_shared(path: Path) -> int:
    """Opens a lock file that any user of the host may lock."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor

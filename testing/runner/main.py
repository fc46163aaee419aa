"""Entry point of every trainer_test under Bazel: its devices, its folders, then pytest on its own files."""

import faulthandler
import os
import sys
import tempfile
import time
from pathlib import Path


def _one_slash(path: str) -> str:
    """On a remote worker whose actions begin in /, Bazel's `$PWD/x` is `//x`: to pathlib another place than `/x`."""
    return f"/{path.lstrip('/')}" if path.startswith("//") else path


# Python puts the folder of this script, links resolved, first; its modules are testing.runner.*, no top-level names.
_HERE = Path(_one_slash(__file__)).parent
sys.path[:] = [
    _one_slash(entry) for entry in sys.path if Path(_one_slash(entry)) not in (_HERE, Path(__file__).resolve().parent)
]

from testing.runner import facts, hardware, locks, supervisor  # noqa: E402
from testing.runner.target import Target, target_from_environment  # noqa: E402

_ROOT = _HERE.parents[1]
_STARTED = time.monotonic()
_SECONDS_FOR_DEVICES = 600.0


def main() -> int:
    """Runs the target that the environment names; returns the exit status."""
    try:
        target = target_from_environment(os.environ)
        devices = _take_devices(target)
    except (ValueError, TimeoutError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    _make_paths_absolute()
    _announce_sharding()
    outputs = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if outputs:
        facts.write_facts(Path(outputs), target, devices, [])

    def run(folder: Path, unfinished: Path) -> int:
        _use_temporary_folder(folder)
        _dump_stacks_before_timeout()
        status, world_sizes = _run_pytest(target, folder, sys.argv[1:])
        if outputs:
            facts.write_facts(Path(outputs), target, devices, world_sizes)
        unfinished.unlink()
        return status

    if os.environ.get("COVERAGE_DIR"):
        # A forked child's measurements would be lost.
        return supervisor.run_here(run)
    premature = os.environ.get("TEST_PREMATURE_EXIT_FILE")
    return supervisor.supervise(run, Path(premature) if premature else None)


def _take_devices(target: Target) -> list[hardware.Device]:
    """Checks that the devices are there and reserves them, before any test file is read."""
    if target.hardware == "cpu":
        hardware.restrict(os.environ, "cpu", [])
        return []
    found = hardware.find_devices(target.hardware, os.environ)
    hardware.check_devices(target.name, target.hardware, target.devices, found)
    by_lock = {f"{target.hardware}-{device.uuid or device.id}": device for device in found}
    taken = locks.reserve(
        list(by_lock),
        target.devices,
        locks.lock_folder(),
        timeout=_SECONDS_FOR_DEVICES,
        report=lambda message: print(message, file=sys.stderr, flush=True),
    )
    devices = [by_lock[name] for name in taken]
    hardware.restrict(os.environ, target.hardware, devices)
    return devices


def _make_paths_absolute() -> None:
    """A test may change the working directory; reports must still arrive."""
    for name in (
        "RUNFILES_DIR",
        "TEST_PREMATURE_EXIT_FILE",
        "TEST_SRCDIR",
        "TEST_TMPDIR",
        "TEST_UNDECLARED_OUTPUTS_DIR",
        "XML_OUTPUT_FILE",
    ):
        if os.environ.get(name):
            os.environ[name] = _one_slash(os.path.abspath(os.environ[name]))


def _announce_sharding() -> None:
    """Tells Bazel that this runner divides its tests; it fails a sharded test that does not say so."""
    status_file = os.environ.get("TEST_SHARD_STATUS_FILE")
    if status_file:
        Path(status_file).touch()


def _use_temporary_folder(folder: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # The sandbox is read-only, and the wheels bring their bytecode.
    sys.dont_write_bytecode = True


def _dump_stacks_before_timeout() -> None:
    """Shows where a hanging test stands just before Bazel ends it."""
    # A copy, because pytest redirects descriptor 2 while tests run.
    stderr = os.dup(2)
    faulthandler.enable(stderr)
    limit = float(os.environ.get("TEST_TIMEOUT", 0))
    if limit:
        since_start = time.monotonic() - _STARTED
        faulthandler.dump_traceback_later(max(0.1, limit - min(10.0, limit / 10) - since_start), file=stderr)


def _run_pytest(target: Target, folder: Path, arguments: list[str]) -> tuple[int, set[int]]:
    """Runs pytest on the target's files.

    Returns:
        The exit status, and the world sizes of the tests.
    """
    import pytest

    from testing.runner.policy import Policy

    env = os.environ
    policy = Policy(
        find_target=lambda path: target,
        test_filter=env.get("TESTBRIDGE_TEST_ONLY", ""),
        shard=int(env.get("TEST_SHARD_INDEX", 0)),
        shards=int(env.get("TEST_TOTAL_SHARDS", 1)),
    )
    # Plugins of packages that only happen to be in the closure must not change a run.
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = [
        f"--rootdir={_ROOT}",
        # No configuration file: none is in the runfiles, and none above them is meant.
        "--config-file=/dev/null",
        "--import-mode=importlib",
        "--strict-markers",
        "--no-header",
        "-pno:cacheprovider",
        # faulthandler is used above; pytest's would cancel it.
        "-pno:faulthandler",
        f"--basetemp={folder / 'pytest'}",
        f"--color={'no' if env.get('NO_COLOR') else 'yes'}",
        "-rfEsx",
        "--durations=5",
        "--durations-min=1",
    ]
    if env.get("XML_OUTPUT_FILE"):
        options += [f"--junitxml={env['XML_OUTPUT_FILE']}", f"--override-ini=junit_suite_name={target.name}"]
    if env.get("TESTBRIDGE_TEST_RUNNER_FAIL_FAST") == "1":
        options.append("--exitfirst")
    files = [str(_ROOT / file) for file in target.files]
    status = pytest.main([*options, *arguments, *files], plugins=[policy])
    return int(status), policy.world_sizes


if __name__ == "__main__":
    sys.exit(main())

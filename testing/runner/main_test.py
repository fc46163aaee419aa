import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from testing.runner import locks, supervisor

TESTING = Path(supervisor.__file__).parents[1]
PASSES = "def test_one(): pass"

# Prints what the real tool prints for --query-gpu=index,name,uuid,driver_version.
NVIDIA_SMI = """#!/bin/sh
i=0
while [ $i -lt {count} ]; do echo "$i, NVIDIA H200, GPU-{uuid}-$i, 580.95"; i=$((i + 1)); done
"""


class Inner:
    """Starts main.py on planted test files, as Bazel would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []
        self.main = "testing/runner/main.py"
        # A repo root of its own.
        (folder / "testing").symlink_to(TESTING)
        self.declared = {"tier": "unit", "allowed_skips": []}
        # A TEST_TMPDIR of a usual length, which is too long for a socket.
        tmpdir = folder / "sandbox" / ("x" * 60) / "_tmp"
        tmpdir.mkdir(parents=True)
        (folder / "tools").mkdir()
        self.env = {
            "HOME": str(folder),
            "NO_COLOR": "1",
            "PATH": f"{folder / 'tools'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
            "TEST_TARGET": "//inner:test",
            "TEST_TMPDIR": str(tmpdir),
            "TRAINYARD_DEVICES": "1",
            "TRAINYARD_HARDWARE": "cpu",
            "XML_OUTPUT_FILE": str(folder / "test.xml"),
        }

    def plant(self, source: str, name: str = "inner_test.py") -> None:
        (self.folder / name).write_text(source)
        self.files.append(name)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        self.env["TRAINYARD_TARGET"] = json.dumps({**self.declared, "files": self.files})
        return subprocess.Popen(
            [sys.executable, self.main, *args],
            env={**self.env, **env},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str]:
        process = self.start(*args, **env)
        output = process.communicate(timeout=60)[0]
        return process.returncode, output

    def plant_gpus(self, count: int) -> None:
        tool = self.folder / "tools" / "nvidia-smi"
        # The uuid is this test's own, so that its locks are.
        tool.write_text(NVIDIA_SMI.format(count=count, uuid=f"{os.getpid()}-{self.folder.name}"))
        tool.chmod(0o755)


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    return Inner(tmp_path)


def test_root_of_a_worker_counts_as_one_slash(inner: Inner) -> None:
    inner.plant(
        "import os, sys\n"
        "def test_paths():\n"
        "    paths = [__file__, os.environ['TEST_SRCDIR'], os.environ['TEST_TMPDIR'], *sys.path]\n"
        "    assert not [path for path in paths if path.startswith('//')]\n"
        "    assert os.environ['TEST_TARGET'] == '//inner:test'\n"
    )
    inner.main = f"/{inner.folder}/testing/runner/main.py"
    inner.env["PYTHONPATH"] = os.pathsep.join(f"/{entry}" for entry in [str(inner.folder), *sys.path] if entry)
    status, output = inner.run(TEST_SRCDIR=f"/{inner.folder}", TEST_TMPDIR=f"/{inner.env['TEST_TMPDIR']}")
    assert status == 0, output


def test_passes_and_writes_junit(inner: Inner) -> None:
    inner.plant("def test_one(): pass\ndef test_two(): assert False")
    code, output = inner.run()
    assert code == 1, output
    suite = ElementTree.parse(inner.folder / "test.xml").getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("//inner:test", "2", "1")


def test_only_the_files_of_the_target_are_collected(inner: Inner) -> None:
    (inner.folder / "neighbour_test.py").write_text("def test_two(): assert False")
    inner.plant(PASSES)
    code, output = inner.run()
    assert code == 0, output
    assert "1 passed" in output


def test_the_runners_modules_are_no_top_level_names(inner: Inner) -> None:
    inner.plant("import importlib.util\ndef test_one(): assert importlib.util.find_spec('supervisor') is None")
    code, output = inner.run()
    assert code == 0, output


def test_further_arguments_reach_pytest(inner: Inner) -> None:
    inner.plant("def test_one(): pass\ndef test_two(): assert False")
    code, output = inner.run("-k", "one")
    assert (code, "1 passed, 1 deselected" in output) == (0, True), output


def test_filter_that_matches_nothing_is_red(inner: Inner) -> None:
    inner.plant(PASSES)
    code, output = inner.run(TESTBRIDGE_TEST_ONLY="two")
    assert code != 0
    assert "--test_filter=two matches no test" in output
    assert "inner_test.py::test_one" in output


def test_fail_fast(inner: Inner) -> None:
    inner.plant("def test_one(): assert False\ndef test_two(): assert False")
    code, output = inner.run(TESTBRIDGE_TEST_RUNNER_FAIL_FAST="1")
    assert (code, "1 failed" in output) == (1, True), output


def test_says_that_it_shards(inner: Inner) -> None:
    inner.plant(PASSES)
    shard = {"TEST_TOTAL_SHARDS": "2", "TEST_SHARD_STATUS_FILE": str(inner.folder / "sharded")}
    results = [inner.run(TEST_SHARD_INDEX=str(i), **shard) for i in range(2)]
    assert [code for code, _ in results] == [0, 0]
    assert (inner.folder / "sharded").exists()
    assert "1 passed" in results[0][1]
    assert "Shard 1 of 2 has no test to run" in results[1][1]


# Ends of the process


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("import os; os._exit(0)", 1, "exited with status 0 before the last test was over"),
        ("import os; os._exit(7)", 7, "exited with status 7 before the last test was over"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "ended by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "ended by SIGKILL"),
    ],
)
def test_early_end_is_red(inner: Inner, body: str, code: int, message: str) -> None:
    inner.plant(f"def test_one():\n    {body}")
    premature = inner.folder / "premature"
    found, output = inner.run(TEST_PREMATURE_EXIT_FILE=str(premature))
    assert found == code
    assert message in output
    assert premature.exists()


def test_premature_exit_file_is_gone_after_the_last_test(inner: Inner) -> None:
    inner.plant(PASSES)
    premature = inner.folder / "premature"
    assert inner.run(TEST_PREMATURE_EXIT_FILE=str(premature))[0] == 0
    assert not premature.exists()


def test_early_end_without_bazels_file_is_red(inner: Inner) -> None:
    inner.plant("import os\ndef test_one(): os._exit(0)")
    assert inner.run()[0] == 1


def test_stacks_are_shown_before_the_time_is_over(inner: Inner) -> None:
    # pytest's own handler would drop the alarm after the failure.
    inner.plant("import time\ndef test_fails(): assert False\ndef test_hangs(): time.sleep(3)")
    _, output = inner.run(TEST_TIMEOUT="2")
    assert "Timeout" in output
    assert "in test_hangs" in output


def test_a_run_for_coverage_stays_in_one_process(inner: Inner) -> None:
    inner.plant("import os\ndef test_one(): print('PARENT', os.getppid())")
    code, output = inner.run("-s", COVERAGE_DIR=str(inner.folder))
    assert (code, f"PARENT {os.getpid()}\n" in output) == (0, True), output
    assert f"PARENT {os.getpid()}\n" not in inner.run("-s")[1]


# Folders


def test_temporary_folder_is_short_and_removed(inner: Inner) -> None:
    inner.plant(
        """
import os, socket, tempfile
def test_one(tmp_path):
    for folder in (tmp_path, tempfile.mkdtemp()):
        path = os.path.join(folder, "rank_0_of_32.socket")
        assert len(path) < 80, path
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    with open(os.environ["HOME"] + "/seen", "w") as seen:
        seen.write(os.environ["TMPDIR"])
"""
    )
    code, output = inner.run()
    assert code == 0, output
    folder = Path((inner.folder / "seen").read_text())
    assert len(str(folder)) < 30
    assert not folder.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_temporary_folder_is_removed_when_the_tests_are_ended(inner: Inner, end: signal.Signals) -> None:
    inner.plant(
        """
import os, time
def test_one():
    with open("seen.part", "w") as seen:
        seen.write(f"{os.environ['TMPDIR']} {os.getpid()}")
    os.rename("seen.part", "seen")
    time.sleep(60)
"""
    )
    process = inner.start()
    seen = inner.folder / "seen"
    while not seen.exists():
        time.sleep(0.02)
    folder, child = seen.read_text().split()
    assert Path(folder).exists()
    # SIGTERM as Bazel sends it, to the first process; SIGKILL as the kernel's memory killer, to the one that grew.
    os.kill(process.pid if end == signal.SIGTERM else int(child), end)
    process.communicate(timeout=20)
    assert process.returncode == 128 + end
    assert not Path(folder).exists()


def test_reports_arrive_though_a_test_changes_folder(inner: Inner) -> None:
    (inner.folder / "elsewhere").mkdir()
    (inner.folder / "outputs").mkdir()
    inner.plant(
        """
import os
def test_one():
    os.chdir("elsewhere")
    os.mkdir(os.environ["TEST_UNDECLARED_OUTPUTS_DIR"] + "/table")
"""
    )
    code, output = inner.run(XML_OUTPUT_FILE="test.xml", TEST_UNDECLARED_OUTPUTS_DIR="outputs")
    assert code == 0, output
    assert (inner.folder / "test.xml").exists()
    assert (inner.folder / "outputs" / "device_facts.json").exists()
    assert (inner.folder / "outputs" / "table").exists()


# Hardware


IMPORTED = """
import os
os.mkdir("imported")
def test_one():
    print("VISIBLE", os.environ.get("CUDA_VISIBLE_DEVICES"))
"""


@pytest.mark.parametrize(("hardware", "unit"), [("gpu", "NVIDIA GPU"), ("trainium", "NeuronCore")])
def test_missing_device_is_red_before_collection(inner: Inner, hardware: str, unit: str) -> None:
    inner.plant(IMPORTED)
    for tool in ("nvidia-smi", "neuron-ls"):
        (inner.folder / "tools" / tool).write_text("#!/bin/sh\n[ $1 = --json-output ] && echo '[]'\nexit 0\n")
        (inner.folder / "tools" / tool).chmod(0o755)
    code, output = inner.run(TRAINYARD_HARDWARE=hardware, CUDA_VISIBLE_DEVICES="", NEURON_RT_VISIBLE_CORES="")
    assert code == 1
    assert f"//inner:test needs 1 {unit}, this machine shows 0" in output
    assert not (inner.folder / "imported").exists()


def test_too_few_devices_are_red(inner: Inner) -> None:
    inner.plant(IMPORTED)
    inner.plant_gpus(1)
    code, output = inner.run(TRAINYARD_HARDWARE="gpu", TRAINYARD_DEVICES="2")
    assert code == 1
    assert "needs 2 NVIDIA GPUs, this machine shows 1, NVIDIA H200" in output
    assert not (inner.folder / "imported").exists()


def test_devices_are_assigned_and_recorded(inner: Inner) -> None:
    inner.plant(IMPORTED.replace("def", "import pytest\n@pytest.mark.world_size(2)\ndef"))
    inner.plant_gpus(4)
    (inner.folder / "outputs").mkdir()
    outputs = {"TEST_UNDECLARED_OUTPUTS_DIR": str(inner.folder / "outputs")}
    code, output = inner.run("-s", TRAINYARD_HARDWARE="gpu", TRAINYARD_DEVICES="2", **outputs)
    assert code == 0, output
    assert "VISIBLE 0,1" in output
    facts = json.loads((inner.folder / "outputs" / "device_facts.json").read_text())
    assert facts["device_names"] == ["NVIDIA H200"] * 2
    assert (facts["hardware"], facts["devices"], facts["device_ids"]) == ("gpu", 2, ["0", "1"])
    assert (facts["driver"], facts["world_sizes"]) == ("580.95", [2])
    assert facts["versions"]["python"].startswith("3.")
    assert facts["versions"]["pytest"]


def test_devices_set_from_outside_are_respected(inner: Inner) -> None:
    inner.plant(IMPORTED)
    inner.plant_gpus(4)
    code, output = inner.run("-s", TRAINYARD_HARDWARE="gpu", TRAINYARD_DEVICES="1", CUDA_VISIBLE_DEVICES="3,2")
    assert (code, "VISIBLE 3" in output) == (0, True), output


def test_tests_at_the_same_time_get_different_devices(inner: Inner) -> None:
    inner.plant(
        "import os, time\ndef test_one():\n    print('VISIBLE', os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"
    )
    inner.plant_gpus(4)
    both = [inner.start("-s", TRAINYARD_HARDWARE="gpu", TRAINYARD_DEVICES="2") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(line for output in outputs for line in output.splitlines() if "VISIBLE" in line) == [
        "inner_test.py VISIBLE 0,1",
        "inner_test.py VISIBLE 2,3",
    ]


def test_a_cpu_test_sees_no_gpu(inner: Inner) -> None:
    inner.plant(IMPORTED)
    inner.plant_gpus(4)
    code, output = inner.run("-s", CUDA_VISIBLE_DEVICES="0")
    assert (code, "VISIBLE \n" in output) == (0, True), output


def test_process_that_bazel_did_not_start_says_so(inner: Inner) -> None:
    inner.plant(PASSES)
    del inner.env["TRAINYARD_HARDWARE"]
    code, output = inner.run()
    assert code == 1
    assert "TRAINYARD_HARDWARE is not set: start this test with `bazel test`" in output


@pytest.fixture(autouse=True)
def no_locks_left(tmp_path: Path):
    yield
    for path in locks.lock_folder().glob(f"gpu-GPU-{os.getpid()}-{tmp_path.name}-*"):
        path.unlink()

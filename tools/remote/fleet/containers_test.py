import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools.remote import credentials, programs
from tools.remote.engine import Engine
from tools.remote.fleet import containers
from tools.remote.places import Places
from tools.remote.pools import Worker
from tools.remote.settings import Settings

# (where it is in no container, so that a path of this machine would be seen)
HERE = Engine(Path("/here/engine/bin/python"), Path("/here/buildbox/bin"), Path("/here/postgres/bin"))
IMAGE = Engine(Path("/image/engine/bin/python"), Path("/image/buildbox/bin"), Path("/image/postgres/bin"))
WANTED = Settings(port=50001).with_worker("gpu", (0, 1))


@pytest.fixture
def parts():
    places = Places(Path("/home/c"))
    return [
        programs.worker(HERE, places, Worker("gpu", 1, (0, 1)), "http://127.0.0.1:50001"),
        programs.postgres(HERE, places, as_root=True),
        programs.casd(HERE, places, "30G", fuse=True),
        programs.scheduler(HERE, places, 30),
    ]


def test_a_container_does_what_supervisor_is_told(parts):
    services = yaml.safe_load(containers.compose(parts))["services"]
    assert services.keys() == {"prepare", *(each.name for each in parts)}
    for each in parts:
        service = services[each.name]
        assert service["command"] == ["/bin/sh", "-e", f"/cluster/run/{each.name}.sh"]
        assert service["environment"] == each.environ
        assert (service["stop_signal"], service["restart"]) == (f"SIG{each.stop_signal}", "always")
        assert service["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}
    assert services["worker-gpu-1"]["environment"]["TRAINYARD_FOR_ACTIONS"].startswith("CUDA_VISIBLE_DEVICES=0,1 ")


def test_workers_end_before_the_scheduler(parts):
    services = yaml.safe_load(containers.compose(parts))["services"]
    assert list(services["worker-gpu-1"]["depends_on"]) == ["prepare", "postgres", "casd", "scheduler"]
    assert list(services["scheduler"]["depends_on"]) == ["prepare", "postgres", "casd"]


def test_workers_see_what_casd_mounts(parts):
    services = yaml.safe_load(containers.compose(parts))["services"]
    assert services["casd"]["volumes"] == ["./cluster:/cluster:rshared"]
    assert services["worker-gpu-1"]["volumes"] == ["./cluster:/cluster:rslave"]
    assert [name for name, each in services.items() if each.get("privileged")] == ["postgres", "casd", "worker-gpu-1"]


def test_what_is_written_prepares_a_cluster(parts, tmp_path):
    containers.write(tmp_path, WANTED, parts)
    paths = dataclasses.asdict(IMAGE)
    (tmp_path / "engine.json").write_text(json.dumps({name: str(path) for name, path in paths.items()}))
    # (of the repo, what was written alone; the rest is what the engine's Python has, too)
    found = [path for path in sys.path if not (Path(path) / "tools").exists()]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), *found])}
    services = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]
    _, *command, home, engine = services["prepare"]["command"]
    assert (home, engine) == (containers.HOME, "/opt/engine.json")
    subprocess.run(
        [sys.executable, *command, f"{tmp_path}/cluster", f"{tmp_path}/engine.json"], env=environ, cwd="/", check=True
    )
    for each in parts:
        script = (tmp_path / "cluster/run" / f"{each.name}.sh").read_text()
        assert "/image/" in script
        assert "/here/" not in script


def test_credentials_of_a_worker_go_with_what_joins_and_not_into_the_image(parts, tmp_path):
    shown = tmp_path / "shown"
    credentials.make(shown, [])
    wanted = Settings(scheduler="grpcs://far:50051", credentials=str(shown)).with_worker("gpu")
    folder = tmp_path / "folder"
    containers.write(folder, wanted, parts)
    copied = {file.name: file for file in (folder / "cluster/tls").iterdir()}
    assert copied.keys() == {"ca.pem", "worker.pem", "worker.key", "worker.token"}
    assert copied["worker.key"].read_text() == (shown / "worker.key").read_text()
    assert copied["worker.key"].stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "cluster/cluster.json").read_text())["credentials"] == "/cluster/tls"
    assert "cluster" in (folder / ".dockerignore").read_text().split()

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.remote import programs
from tools.remote.engine import Engine
from tools.remote.fleet import systemd
from tools.remote.places import Places
from tools.remote.pools import Worker

ENGINE = Engine(Path("/opt/engine/bin/python"), Path("/opt/buildbox/bin"), Path("/opt/postgres/bin"))


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "a cluster 100%")


@pytest.fixture
def parts(places):
    return [
        programs.web(ENGINE, places, 50053),
        programs.postgres(ENGINE, places, as_root=False),
        programs.casd(ENGINE, places, "30G", fuse=False),
        programs.scheduler(ENGINE, places, 30),
        programs.worker(ENGINE, places, Worker("gpu", 1, (0, 1)), "http://127.0.0.1:50051"),
        programs.worker(ENGINE, places, Worker("gpu", 2, (2,)), "http://127.0.0.1:50051"),
    ]


def settings(text):
    """The settings of a unit, each a list."""
    found = {}
    for line in text.splitlines():
        key, assigned, value = line.partition("=")
        if assigned:
            found.setdefault(key, []).append(value)
    return found


def test_a_unit_does_what_supervisor_is_told(places, parts):
    units = systemd.units(places, parts, "runner", ENGINE.buildbox)
    assert set(units) == {
        "trainyard.target",
        *(f"trainyard-{name}.service" for name in ("web", "postgres", "casd", "scheduler", "worker@")),
    }
    told = programs.supervisor_config(places, parts)
    for part in parts:
        name = "worker@" if part.name.startswith("worker") else part.name
        unit = settings(units[f"trainyard-{name}.service"])
        script = unit["ExecStart"][0].replace("%i", part.name.removeprefix("worker-")).replace("%%", "%")
        assert script == f'/bin/sh -e "{places.run}/{part.name}.sh"'
        section = settings(told.partition(f"[program:{part.name}]")[2].partition("\n[")[0])
        assert unit["KillSignal"] == [f"SIG{section['stopsignal'][0]}"]
        assert unit["TimeoutStopSec"] == section["stopwaitsecs"]
        assert unit["Restart"] == ["always"] and section["autorestart"] == ["true"]
    assert 'Environment="BUILDBOX_STAGER=copy-or-link"' in units["trainyard-casd.service"]
    assert "trainyard-worker@gpu-2.service" in units["trainyard.target"]


def test_order(places, parts):
    units = systemd.units(places, parts, "runner", ENGINE.buildbox)
    (after,) = settings(units["trainyard-worker@.service"])["After"]
    assert {"trainyard-scheduler.service", "trainyard-casd.service"} < set(after.split())
    (after,) = settings(units["trainyard-scheduler.service"])["After"]
    assert "trainyard-postgres.service" in after and "worker" not in after


def test_units_for_the_systemd_of_a_user(places, parts):
    for user, target in (("runner", "multi-user.target"), ("", "default.target")):
        units = systemd.units(places, parts, user, ENGINE.buildbox)
        assert settings(units["trainyard.target"])["WantedBy"] == [target]
        service = settings(units["trainyard-scheduler.service"])
        assert service.get("User", [""]) == [user]
        assert ("network-online.target" in service["After"][0]) == bool(user)


def test_workers_differ_by_their_devices(parts):
    assert systemd.environment_files(parts) == {
        "worker-gpu-1.env": 'TRAINYARD_FOR_ACTIONS="CUDA_VISIBLE_DEVICES=0,1 TRAINYARD_WORKER=gpu-1"\n',
        "worker-gpu-2.env": 'TRAINYARD_FOR_ACTIONS="CUDA_VISIBLE_DEVICES=2 TRAINYARD_WORKER=gpu-2"\n',
    }


def test_systemd_accepts_them(places, parts, tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    folder = tmp_path / "units"
    folder.mkdir()
    for name, text in systemd.units(places, parts, "root", ENGINE.buildbox).items():
        (folder / name).write_text(text)
    files = [folder / "trainyard.target", folder / "trainyard-worker@gpu-1.service"]
    (folder / "trainyard-worker@gpu-1.service").write_text((folder / "trainyard-worker@.service").read_text())
    result = subprocess.run(
        [program, "verify", "--man=no", *map(str, files)], capture_output=True, text=True, check=False
    )
    said = [line for line in result.stderr.splitlines() if "trainyard" in line]
    assert (result.returncode, said) == (0, [])

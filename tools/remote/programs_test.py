import configparser
import shlex
import subprocess
from pathlib import Path

import pytest

from tools.remote import programs
from tools.remote.engine import Engine
from tools.remote.places import Places
from tools.remote.pools import Worker

ENGINE = Engine(Path("/e/bin/python"), Path("/b/bin"), Path("/p/bin"))
PLACES = Places(Path("/home/my c"))


def words(script):
    """The words of a script's last command."""
    return shlex.split(script.strip().splitlines()[-1])


def test_postgres_as_root_has_another_name():
    as_root, as_user = (programs.postgres(ENGINE, PLACES, as_root=root) for root in (True, False))
    assert words(as_root.script)[:5] == ["exec", "unshare", "--user", "--map-user=1", "--map-group=1"]
    assert words(as_user.script)[:2] == ["exec", "/p/bin/postgres"]
    assert as_user.stop_signal == "INT"


def test_postgres_listens_on_a_socket_alone():
    assert "listen_addresses=" in words(programs.postgres(ENGINE, PLACES, as_root=False).script)


def test_blobs_are_asked_for_by_socket_alone():
    found = words(programs.casd(ENGINE, PLACES, "3G", fuse=True).script)
    assert [word for word in found if word.startswith("--bind")] == ["--bind=unix:/home/my c/run/casd.sock"]
    assert "--quota-high=3G" in found


def test_staging_without_fuse():
    assert programs.casd(ENGINE, PLACES, "3G", fuse=True).environ == {}
    assert programs.casd(ENGINE, PLACES, "3G", fuse=False).environ == {"BUILDBOX_STAGER": "copy-or-link"}


def test_worker():
    each = programs.worker(ENGINE, PLACES, Worker("gpu", 2, (1,)), "http://h:1", ["--bots-access-token=/a b"])
    found = words(each.script)
    assert found[-1] == "gpu-2"
    assert "--bots-remote=http://h:1" in found
    assert "--bots-access-token=/a b" in found
    assert {found[i + 1] for i, word in enumerate(found) if word == "--platform"} == {
        "Pool=gpu",
        "OSFamily=linux",
        "ISA=x86-64",
        "DeviceKind=nvidia",
        "DeviceCount=1",
    }
    assert each.environ == {"TRAINYARD_FOR_ACTIONS": "CUDA_VISIBLE_DEVICES=1 TRAINYARD_WORKER=gpu-2"}


def test_action_sees_the_machine_read_only(monkeypatch):
    monkeypatch.setattr(programs.sys, "base_prefix", "/opt/python")
    binds = [word for word in shlex.split(programs.run_action(ENGINE)) if word.startswith(("--ro-bind", "--bind"))]
    writable = [word for word in binds if word.startswith("--bind") and "$device" not in word]
    assert writable == ["--bind-mount=/dev/shm:/dev/shm"]
    assert "--ro-bind-mount=/opt/python:/opt/python" in binds
    assert any(word.endswith(":/usr") for word in binds)


def test_runner_does_not_have_what_its_actions_get(tmp_path):
    (tmp_path / "buildbox-run-bubblewrap").write_text('#!/bin/sh\necho "[${CUDA_VISIBLE_DEVICES-none}]"\n')
    (tmp_path / "buildbox-run-bubblewrap").chmod(0o755)
    script = tmp_path / "run_action.sh"
    script.write_text(programs.run_action(Engine(tmp_path, tmp_path, tmp_path)))
    environ = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "TRAINYARD_FOR_ACTIONS": "CUDA_VISIBLE_DEVICES=0"}
    said = subprocess.run(["sh", str(script)], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == "[none]\n"


@pytest.fixture
def supervisor():
    parts = [
        programs.postgres(ENGINE, PLACES, as_root=False),
        programs.scheduler(ENGINE, PLACES, 30),
        programs.worker(ENGINE, PLACES, Worker("gpu", 1, (0, 1)), "http://h:1"),
    ]
    parser = configparser.RawConfigParser()
    parser.read_string(programs.supervisor_config(PLACES, parts))
    return parser


def test_every_program_is_started_again_whatever_its_status(supervisor):
    sections = [name for name in supervisor.sections() if name.startswith("program:")]
    assert sections == ["program:postgres", "program:scheduler", "program:worker-gpu-1"]
    for name in sections:
        assert supervisor[name]["autorestart"] == "true"
        assert f'{programs.MARK}="/home/my c"' in supervisor[name]["environment"]


def test_devices_of_a_worker(supervisor):
    environment = supervisor["program:worker-gpu-1"]["environment"]
    assert 'TRAINYARD_FOR_ACTIONS="CUDA_VISIBLE_DEVICES=0,1 TRAINYARD_WORKER=gpu-1"' in environment


def test_an_action_gets_the_variables_of_its_worker(tmp_path):
    (tmp_path / "bwrap").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bwrap").chmod(0o755)
    script = tmp_path / "script"
    script.write_text(programs.bubblewrap(Engine(tmp_path, tmp_path, tmp_path)))
    environ = {"PATH": "/usr/bin:/bin", "TRAINYARD_FOR_ACTIONS": "A=1,2 B="}
    said = subprocess.run(["sh", str(script), "--bind", "a b"], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == "--setenv\nB\n\n--setenv\nA\n1,2\n--bind\na b\n"


def test_supervisor_is_asked_by_the_user_alone(supervisor):
    assert supervisor["unix_http_server"]["chmod"] == "0700"


def test_a_script_that_changed_is_another_program():
    parts = [programs.casd(ENGINE, PLACES, quota, fuse=True) for quota in ("1G", "2G")]
    before, after = (programs.supervisor_config(PLACES, [part]) for part in parts)
    assert before != after
    assert before == programs.supervisor_config(PLACES, [parts[0]])

"""The processes of a cluster: what each runs, in which order they stand, and what supervisor is told of them."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tools.remote.blobs import RESERVED_BYTES
from tools.remote.engine import Engine
from tools.remote.places import Places
from tools.remote.pools import Worker

# What the environment of every process of a cluster names: its home. So what a dead supervisor left is found.
MARK = "TRAINYARD_CLUSTER"
# What tells an action which worker runs it.
WORKER_VARIABLE = "TRAINYARD_WORKER"
# What a worker sets for its actions, as words A=1. (An action gets none of the worker's own variables.)
_FOR_ACTIONS = "TRAINYARD_FOR_ACTIONS"
# What an action sees of the machine beside its inputs.
_SEEN = ("/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc")
_DEVICES = ("nvidia*", "neuron*")
_WAIT_FOR_PORT = """\
import socket, sys, time
while True:
    try:
        socket.create_connection(sys.argv[1:], timeout=5).close()
        break
    except OSError:
        time.sleep(0.2)
"""


@dataclasses.dataclass(frozen=True)
class Program:
    """A process that is started again whenever it ends.

    Attributes:
      name: unique in the cluster.
      script: shell commands; the last is `exec`.
      environ: variables to set.
      stop_signal: what ends it in an orderly way.
      stop_seconds: how long that may take.
      place: programs with lower numbers start first and end last.
    """

    name: str
    script: str
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    place: int = 1


def postgres(engine: Engine, places: Places, *, as_root: bool) -> Program:
    """The scheduler's store of jobs.

    PostgreSQL refuses to run as root: there it runs in a user namespace in which root has another name.
    """
    wrap = "unshare --user --map-user=1 --map-group=1 -- " if as_root else ""
    data, binaries = places.data / "postgres", engine.postgres
    initialise = f"{wrap}{binaries}/initdb -D {_q(data)}.new -U bgd -A trust -E UTF8 --locale=C >/dev/null"
    options = f"-c listen_addresses= -c unix_socket_directories={_q(places.run)} -c max_connections=200"
    # (jobs of a machine that lost power are lost with the clients that waited for them)
    options += " -c fsync=off -c synchronous_commit=off"
    return Program(
        "postgres",
        f"if [ ! -d {_q(data)} ]; then\n"
        f"  rm -rf {_q(data)}.new\n  {initialise}\n  mv {_q(data)}.new {_q(data)}\nfi\n"
        f"exec {wrap}{binaries}/postgres -D {_q(data)} {options}\n",
        stop_signal="INT",
        place=1,
    )


def casd(engine: Engine, places: Places, quota: str, *, fuse: bool, upstream: Sequence[str] = ()) -> Program:
    """The store of blobs and action results, which also stages the inputs of actions.

    Args:
      engine: the programs.
      places: of the cluster.
      quota: disk that blobs may take, such as "30G".
      fuse: whether a filesystem of it can be mounted.
      upstream: options that name the store that this one stands before, and what it is shown.
    """
    environ = {} if fuse else {"BUILDBOX_STAGER": "copy-or-link"}
    return Program(
        "casd",
        f"{unmount(engine, places)}"
        f"exec {engine.buildbox}/buildbox-casd --bind=unix:{_q(places.casd_socket)} "
        f"--quota-high={quota} --reserved={RESERVED_BYTES} --log-level=warning {shlex.join(upstream)} "
        f"{_q(places.data / 'casd')}\n",
        environ=environ,
        place=1,
    )


def unmount(engine: Engine, places: Places) -> str:
    """Shell commands that unmount what a casd that was killed has left mounted."""
    # (the kernel writes a space in a path as \\040)
    mounted = str(places.data / "casd").replace(" ", "\\040")
    return (
        f"cut -d ' ' -f 2 /proc/self/mounts | grep -F {_q(mounted + '/')} | while read -r left; do\n"
        f'  PATH="$PATH:{engine.buildbox}" fusermount3 -u -z "$(printf %b "$left")"\n'
        "done || true\n"
    )


def scheduler(engine: Engine, places: Places, abandon_seconds: int) -> Program:
    """BuildGrid, once PostgreSQL answers.

    Args:
      engine: the programs.
      places: of the cluster.
      abandon_seconds: after how long a test is cancelled for which no client waits.
    """
    database = f"postgresql+psycopg2://bgd@/bgd?host={places.run}"
    asked = f"-h {_q(places.run)} -U bgd"
    # (a look at the tables takes as long as all the rest of a start)
    made = _q(places.data / "postgres" / f"tables-of-{engine.python.parent.parent.name}")
    return Program(
        "scheduler",
        f"until {engine.postgres}/pg_isready -q {asked} -d postgres; do sleep 0.1; done\n"
        f"if [ ! -e {made} ]; then\n"
        f"  {engine.postgres}/psql {asked} -d postgres -Atc \"select 1 from pg_database where datname='bgd'\" |\n"
        "    grep -q 1 ||\n"
        f"    {engine.postgres}/createdb {asked} bgd\n"
        f"  {engine.bin}/bgd migrate apply {_q(database)}\n"
        f"  touch {made}\nfi\n"
        f"exec {engine.python} {_q(places.run / 'serve.py')} server start -v {_q(places.run / 'buildgrid.yml')}\n",
        environ={"TRAINYARD_ABANDON_SECONDS": str(abandon_seconds)},
        place=2,
    )


def worker(
    engine: Engine,
    places: Places,
    each: Worker,
    scheduler: str,
    credentials: Sequence[str] = (),
    host: str = "",
    word_seconds: int = 10,
) -> Program:
    """A worker, with the devices that are its own.

    Its actions see their declared inputs, the machine's system folders and Python, read-only, and no network. They end
    with it.

    Args:
      engine: the programs.
      places: of the cluster.
      each: the worker.
      scheduler: URL of the scheduler, http://HOST:PORT or https://HOST:PORT.
      credentials: options that name its certificate, key and token.
      host: where it is, if the scheduler is on another.
      word_seconds: how often it says that it is there.
    """
    name = f"{each.name}@{host}" if host else each.name
    environ = {**each.environ, WORKER_VARIABLE: name}
    platform = " ".join(f"--platform {key}={value}" for key, value in sorted(each.properties.items()))
    return Program(
        f"worker-{each.name}",
        # (it would wait longer each time that it asks in vain)
        f"{engine.python} -I -c {shlex.quote(_WAIT_FOR_PORT)} {scheduler.rpartition('/')[2].replace(':', ' ')}\n"
        f"exec {engine.buildbox}/buildbox-worker --bots-remote={scheduler} {shlex.join(credentials)} "
        f"--cas-remote=unix:{_q(places.casd_socket)} {platform} "
        f"--buildbox-run={_q(places.run / 'run_action.sh')} --bots-retry-limit=10 --bots-retry-delay=200 "
        f"--concurrent-jobs=1 --max-wait-time={word_seconds} --log-level=info {name}\n",
        environ={_FOR_ACTIONS: " ".join(f"{key}={value}" for key, value in environ.items())},
        place=3,
    )


def web(engine: Engine, places: Places, port: int) -> Program:
    """The page that shows how the cluster is; it stands before all others and tells of their end."""
    return Program(
        "web",
        f"PYTHONPATH={_q(places.run / 'code')} exec {engine.python} -m tools.remote.web --home {_q(places.home)} "
        f"--psql {engine.postgres}/psql --port {port}\n",
        place=0,
    )


def run_action(engine: Engine) -> str:
    """The script that runs one action for a worker."""
    binds = [f"--ro-bind-mount={Path(path).resolve()}:{path}" for path in _SEEN if Path(path).exists()]
    python = Path(sys.base_prefix).resolve()
    if not python.is_relative_to("/usr"):
        binds.append(f"--ro-bind-mount={python}:{python}")
    # (locks of devices stand there, for all workers of the machine)
    binds.append("--bind-mount=/dev/shm:/dev/shm")
    globs = " ".join(f"/dev/{name}" for name in _DEVICES)
    runner = engine.buildbox / "buildbox-run-bubblewrap"
    return (
        "#!/bin/sh\n"
        f'PATH="$(dirname "$0")/bin:$PATH:{engine.buildbox}"\n'
        # (the runner takes from an action all variables that it has itself, also those that bwrap is told to set)
        f'for pair in ${_FOR_ACTIONS}; do unset "${{pair%%=*}}"; done\n'
        f'for device in {globs}; do [ -e "$device" ] && set -- "--bind-mount=$device:$device" "$@"; done\n'
        f'exec setpriv --pdeathsig KILL -- {runner} {shlex.join(binds)} "$@"\n'
    )


def bubblewrap(engine: Engine) -> str:
    """The script that stands for bwrap, and gives an action the variables of its worker."""
    return (
        "#!/bin/sh\n"
        f'for pair in ${_FOR_ACTIONS}; do set -- --setenv "${{pair%%=*}}" "${{pair#*=}}" "$@"; done\n'
        f'exec {engine.buildbox}/bwrap "$@"\n'
    )


def supervisor_config(places: Places, programs: Iterable[Program]) -> str:
    """What supervisor is told; each program's script stands in `places.run`."""
    home = _setting(places.home)
    run, log = f"{home}/run", f"{home}/log"
    parts = [
        f"[unix_http_server]\nfile={_setting(places.supervisor_socket)}\nchmod=0700\n",
        f"[supervisord]\nlogfile={log}/supervisor.log\npidfile={run}/supervisor.pid\n"
        f"childlogdir={log}\nidentifier=trainyard\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        f"[supervisorctl]\nserverurl=unix://{_setting(places.supervisor_socket)}\n",
    ]
    for each in programs:
        # (supervisor compares what it is told: a script that changed is another program)
        digest = hashlib.sha256(each.script.encode()).hexdigest()[:12]
        environ = {**each.environ, MARK: str(places.home), "TRAINYARD_SCRIPT": digest}
        variables = ",".join(f'{key}="{_setting(value)}"' for key, value in sorted(environ.items()))
        parts.append(
            f'[program:{each.name}]\ncommand=/bin/sh -e "{run}/{each.name}.sh"\n'
            f"environment={variables}\npriority={each.place}\n"
            # (buildbox-worker ends with 0 when the scheduler is away for some seconds)
            "autostart=true\nautorestart=true\nstartsecs=0\nstartretries=1000000\n"
            f"stopsignal={each.stop_signal}\nstopwaitsecs={each.stop_seconds}\nstopasgroup=false\nkillasgroup=true\n"
            f"redirect_stderr=true\nstdout_logfile={log}/{each.name}.log\n"
            "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n"
        )
    return "\n".join(parts)


def _setting(value: Path | str) -> str:
    """A value in supervisor's configuration, where % begins a variable."""
    return str(value).replace("%", "%%")


def _q(path: Path | str) -> str:
    return shlex.quote(str(path))

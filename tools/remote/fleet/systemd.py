"""The processes of a cluster as units of systemd, in the place of supervisor: what each does is the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.remote.places import Places
from tools.remote.programs import Program

TARGET = "trainyard.target"
_WORKER = "worker-"
# What systemd gives to services by itself.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def units(places: Places, programs: Sequence[Program], user: str, path: Path) -> dict[str, str]:
    """The units: one per process, one for all workers, and the target that holds them together.

    Args:
      places: of the cluster; the scripts of its programs are in its `run`.
      programs: all of it.
      user: whom the machine's systemd runs them as; "" where they are for the systemd of a user.
      path: folder in which programs find others, beside the usual ones.

    Returns:
      The text of each by its file name.
    """
    ordered = sorted(programs, key=lambda each: each.place)
    found = {_unit(each): _service(each, places, ordered, user, path) for each in ordered}
    wanted = " ".join(map(_instance, ordered))
    found[TARGET] = (
        f"[Unit]\nDescription=Trainyard cluster in {_escape(places.home)}\nWants={wanted}\n\n"
        f"[Install]\nWantedBy={'multi-user' if user else 'default'}.target\n"
    )
    return found


def install(folder: Path, places: Places, programs: Sequence[Program], user: str, path: Path) -> None:
    """Writes the units to `folder`, and beside the programs' scripts what they read. The rest is as for `units`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in units(places, programs, user, path).items():
        (folder / name).write_text(text)
    for name, text in environment_files(programs).items():
        (places.run / name).write_text(text)


def environment_files(programs: Iterable[Program]) -> dict[str, str]:
    """What differs between the workers, by file name: devices. They stand in the `run` of the cluster's places."""
    return {
        f"{each.name}.env": "".join(f'{key}="{value}"\n' for key, value in sorted(each.environ.items()))
        for each in programs
        if _is_worker(each)
    }


def _service(program: Program, places: Places, ordered: Iterable[Program], user: str, path: Path) -> str:
    run = _escape(places.run)
    earlier = [_instance(each) for each in ordered if each.place < program.place and not _is_worker(each)]
    if _is_worker(program):
        name = f"{_WORKER}%i"
        environ = [f"EnvironmentFile={run}/{name}.env"]
    else:
        name = program.name
        environ = [f'Environment="{key}={_escape(value)}"' for key, value in sorted(program.environ.items())]
    # (a user's systemd starts when the network is there, and does not know its target)
    network = ["network-online.target"] if user else []
    lines = [
        "[Unit]",
        f"Description=Trainyard {name}",
        f"PartOf={TARGET}",
        f"After={' '.join([*network, *earlier])}",
        *(f"Wants={each}" for each in network),
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *([f"User={user}"] if user else []),
        f'ExecStart=/bin/sh -e "{run.replace("$", "$$")}/{name}.sh"',
        f'Environment="PATH={_PATH}:{_escape(path)}"',
        *environ,
        # (buildbox-worker ends with 0 when the scheduler is away for some seconds)
        "Restart=always",
        "RestartSec=1",
        # (as supervisor does: the process is asked to end, what is left of its children is killed)
        "KillMode=mixed",
        f"KillSignal=SIG{program.stop_signal}",
        f"TimeoutStopSec={program.stop_seconds}",
        "",
        "[Install]",
        f"WantedBy={TARGET}",
    ]
    return "\n".join(lines) + "\n"


def _is_worker(program: Program) -> bool:
    return program.name.startswith(_WORKER)


def _unit(program: Program) -> str:
    return f"trainyard-{'worker@' if _is_worker(program) else program.name}.service"


def _instance(program: Program) -> str:
    return f"trainyard-{program.name.replace(_WORKER, 'worker@', 1)}.service"


def _escape(value: Path | str) -> str:
    """A value inside quotes, where % begins what systemd fills in."""
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")

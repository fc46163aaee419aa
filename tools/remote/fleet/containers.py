"""The processes of a cluster as containers: one each, from one image that holds the engine.

What each does is what supervisor and systemd are told to start. The first, `prepare`, writes their scripts: paths of
programs are those of the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.remote import credentials, shipped
from tools.remote.fleet import prepare
from tools.remote.places import Places
from tools.remote.programs import Program
from tools.remote.settings import Settings

# Where the home of the cluster is in all containers.
HOME = "/cluster"
_CONTAINERFILE = Path(__file__).with_name("Containerfile")
_REPO = Path(__file__).parents[3]
_READ = (
    "tools/bazel/requirements.txt",
    "tools/remote/buildgrid.yml",
    "tools/remote/requirements.txt",
    "tools/remote/serve.py.txt",
    "tools/remote/status_page.html",
)
# What mounts and makes namespaces: staging by FUSE, the sandboxes of actions, PostgreSQL away from root.
_PRIVILEGED = ("casd", "postgres", "worker-")


def compose(programs: Sequence[Program]) -> str:
    """The text of compose.yaml for these programs (JSON, which is YAML). They speak on the host's network."""
    image = {"image": "trainyard-cluster", "network_mode": "host"}
    services: dict[str, Any] = {
        "prepare": {
            **image,
            "build": {"context": ".", "dockerfile": _CONTAINERFILE.name},
            "command": ["/opt/engine/bin/python", "-m", prepare.__name__, HOME, "/opt/engine.json"],
            "volumes": [f"./cluster:{HOME}"],
        }
    }
    ordered = sorted(programs, key=lambda each: each.place)
    for each in ordered:
        earlier = {other.name: {"condition": "service_started"} for other in ordered if other.place < each.place}
        services[each.name] = {
            **image,
            "command": ["/bin/sh", "-e", f"{HOME}/run/{each.name}.sh"],
            "depends_on": {"prepare": {"condition": "service_completed_successfully"}, **earlier},
            "environment": dict(each.environ),
            "privileged": each.name.startswith(_PRIVILEGED),
            "restart": "always",
            "stop_grace_period": f"{each.stop_seconds}s",
            "stop_signal": f"SIG{each.stop_signal}",
            # (workers see what casd mounts)
            "volumes": [f"./cluster:{HOME}:{'rshared' if each.name == 'casd' else 'rslave'}"],
        }
    return json.dumps({"services": services}, indent=2) + "\n"


def write(folder: Path, wanted: Settings, programs: Sequence[Program]) -> None:
    """Writes what `docker compose up` takes: compose.yaml, and what the image is built from.

    Args:
      folder: where; `cluster` in it becomes the home.
      wanted: what the cluster is; of one that joins another, the credentials are copied.
      programs: all of it.
    """
    places = Places(folder / "cluster")
    places.tls.mkdir(parents=True, exist_ok=True)
    if wanted.credentials:
        for name in credentials.files(credentials.WORKER):
            (places.tls / name).touch(mode=0o600)
            (places.tls / name).write_bytes((Path(wanted.credentials) / name).read_bytes())
        wanted = wanted.model_copy(update={"credentials": f"{HOME}/tls"})
    places.settings.write_text(wanted.model_dump_json(indent=1) + "\n")
    (folder / "compose.yaml").write_text(compose(programs))
    (folder / _CONTAINERFILE.name).write_text(_CONTAINERFILE.read_text())
    # (keys and blobs are no part of the image)
    (folder / ".dockerignore").write_text("cluster\n")
    shipped.ship(folder / "code", [_REPO / name for name in _READ])

"""Brings up workers for remote execution on this machine, and says how they are.

usage: ./bazelw run //tools/remote:cluster -- up --pool cpu=2 --pool gpu=1
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import enum
import getpass
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from tools.bazel.progress import SetupError
from tools.remote import blobs, engine, pools, settings, status_table, web
from tools.remote import status as statuses
from tools.remote.cluster import Cluster, ClusterError
from tools.remote.credentials import CLIENT
from tools.remote.fleet import containers, joining, systemd, tunnel
from tools.remote.fleet.far import FarScheduler
from tools.remote.places import Places, default_home
from tools.remote.programs import Program
from tools.remote.settings import Settings

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Home = Annotated[Path | None, typer.Option(help="Folder of the cluster. Default: below the user's cache.")]


def _cluster(home: Path | None) -> Cluster:
    return Cluster(Places((home or default_home("default")).absolute()), lambda text: console.print(escape(text)))


@app.command()
def up(
    pool: Annotated[list[str] | None, typer.Option(help="Workers of a pool, POOL=NUMBER; may be given again.")] = None,
    home: Home = None,
    host: Annotated[str, typer.Option(help="What the scheduler listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; the page of its status takes the next one.")] = 50051,
    quota: Annotated[str, typer.Option(help="Disk that blobs may take.")] = "30G",
    secure: Annotated[bool, typer.Option("--secure", help="TLS with certificates on both sides, and tokens.")] = False,
    queue_timeout: Annotated[
        int, typer.Option(help="Seconds after which a test fails whose pool has no worker.")
    ] = 300,
) -> None:
    """Starts the cluster, or makes the one that runs as wanted. Without --pool: as it was."""
    cluster = _cluster(home)
    if pool:
        wanted = Settings(host=host, port=port, quota=quota, queue_seconds=queue_timeout, secure=secure)
        for name, count in map(pools.parse_size, pool):
            for _ in range(count):
                wanted = wanted.with_worker(name)
    else:
        wanted = cluster.settings()
    with console.status("starting"):
        cluster.up(wanted)
    if wanted.scheduler:
        console.print(f"up, for the scheduler at {wanted.scheduler}")
        return
    counts = collections.Counter(each.pool for each in wanted.all_workers())
    workers = ", ".join(f"{name} {count}" for name, count in counts.items())
    configuration = "remote_tls" if wanted.secure else "remote"
    console.print(f"up at {wanted.url}, workers: {workers}; ./bazelw test //... --config={configuration}")
    console.print(f"how it is: http://{web.HOST}:{wanted.web_port}/")


@app.command()
def add_worker(
    pool: Annotated[str, typer.Option(help="Its pool.")],
    devices: Annotated[str, typer.Option(help="Ids of the devices that are its own, such as 0,1.")] = "",
    home: Home = None,
) -> None:
    """Adds a worker to the cluster that runs."""
    added = _cluster(home).add_worker(pool, pools.parse_devices(devices))
    console.print(f"{added.name} is up")


@app.command()
def join(
    scheduler: Annotated[str, typer.Option(help="Of another host, grpcs://HOST:PORT.")],
    pool: Annotated[str, typer.Option(help="Of the worker.")],
    devices: Annotated[str, typer.Option(help="Ids of the devices that are its own, such as 0,1.")] = "",
    credentials: Annotated[Path | None, typer.Option(help="Folder of ca.pem, worker.pem, .key and .token.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of this host's part. Default: as above.")] = None,
    quota: Annotated[str, typer.Option(help="Disk that blobs may take here.")] = "30G",
) -> None:
    """Adds a worker on this host to the cluster of another, with a store of blobs of its own before that one's."""
    cluster = _cluster(home or default_home("joined"))
    part = joining.settings(settings.load(cluster.places.settings), scheduler, credentials, quota)
    joining.check(part)
    with console.status("starting"):
        cluster.up(part.with_worker(pool, pools.parse_devices(devices)))
    console.print(f"joined {scheduler}; `status` there says whether it hears this worker")


@app.command("tunnel")
def open_tunnel(
    scheduler: Annotated[str, typer.Option(help="With TLS, grpcs://HOST:PORT.")],
    credentials: Annotated[Path, typer.Option(help="Folder of ca.pem, client.pem, .key and .token.")],
    port: Annotated[int, typer.Option(help="Of loopback, for Bazel.")] = tunnel.PORT,
) -> None:
    """Carries a Bazel that speaks no TLS to a scheduler that takes nothing else, until it is interrupted."""

    def say(text: str) -> None:
        console.print(escape(text), soft_wrap=True)

    def opened(address: str) -> None:
        elsewhere = "" if port == tunnel.PORT else f" --remote_executor=grpc://{address}"
        say(f"{address} leads to {scheduler}; ./bazelw test //... --config=remote_tunnel{elsewhere}")

    asyncio.run(tunnel.run(FarScheduler(scheduler, credentials.absolute(), CLIENT), port, opened, say))


@app.command()
def drain(worker: Annotated[str, typer.Argument(help="Name of the worker, such as gpu-1.")], home: Home = None) -> None:
    """Lets a worker finish its test, then takes it out."""
    _cluster(home).drain(worker)
    console.print(f"{worker} is out")


@app.command()
def logs(
    process: Annotated[str, typer.Argument(help="scheduler, casd, postgres, web, supervisor, worker-NAME.")],
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Goes on as they come.")] = False,
    home: Home = None,
) -> None:
    """Prints the log of a process."""
    with _cluster(home).log(process).open(errors="replace") as file:
        sys.stdout.writelines(collections.deque(file, lines))
        while follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(0.3)


class Output(enum.Enum):
    """How a status is printed."""

    TABLE = "table"
    JSON = "json"


@app.command()
def status(
    output: Annotated[Output, typer.Option(help="For people or for programs.")] = Output.TABLE,
    home: Home = None,
) -> None:
    """Says how the cluster is; exits with 0 healthy, 1 degraded, 2 down."""
    cluster = _cluster(home)
    cluster.settings()
    found = statuses.read(cluster.places, engine.provide().postgres / "psql")
    if output is Output.JSON:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        status_table.show(found, Console(highlight=False))
    sys.exit(statuses.EXIT_CODES[found.health])


@app.command("web")
def serve(
    port: Annotated[int, typer.Option(help="Of loopback. Default: any that is free.")] = 0,
    home: Home = None,
) -> None:
    """Serves the status as a page, JSON and metrics, also of a cluster that is down. `up` starts one, too."""
    cluster = _cluster(home)
    cluster.settings()
    with web.server(cluster.places, engine.provide().postgres / "psql", port) as server:
        console.print(f"http://{web.HOST}:{server.server_port}/")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _unsupervised(cluster: Cluster) -> list[Program]:
    """What another than supervisor starts: all but the page, which would ask supervisor and say that all is down."""
    return [each for each in cluster.write(cluster.settings()) if each.name != "web"]


@app.command()
def verify(home: Home = None) -> None:
    """Looks whether each blob is what its name says, and removes what is not: clients bring it again, or run again."""
    cluster = _cluster(home)
    cluster.settings()
    files = list(blobs.files(cluster.places))
    damaged = 0
    for blob in blobs.remove_damaged(track(files, "looking at blobs", console=console)):
        console.print(f"removed {escape(str(blob))}", soft_wrap=True)
        damaged += 1
    console.print(f"{damaged} of {len(files)} blobs were damaged")


@app.command()
def units(
    folder: Annotated[
        Path, typer.Argument(help="Where they go: /etc/systemd/system, or ~/.config/systemd/user with --user.")
    ],
    user: Annotated[bool, typer.Option("--user", help="For your own systemd, not for the machine's.")] = False,
    home: Home = None,
) -> None:
    """Writes units of systemd that run the cluster, or what joined another, as it was last brought up. Then: `down`."""
    cluster = _cluster(home)
    systemd.install(
        folder, cluster.places, _unsupervised(cluster), "" if user else getpass.getuser(), engine.provide().buildbox
    )
    systemctl = "systemctl --user" if user else "systemctl"
    console.print(f"{systemctl} daemon-reload && {systemctl} enable --now {systemd.TARGET}", soft_wrap=True)


@app.command("containers")
def write_containers(
    folder: Annotated[Path, typer.Argument(help="Where they go; `cluster` in it becomes the cluster's home.")],
    home: Home = None,
) -> None:
    """Writes compose.yaml and a Containerfile for the cluster, or what joined another, as it was last brought up."""
    cluster = _cluster(home)
    containers.write(folder, cluster.settings(), _unsupervised(cluster))
    console.print(f"docker compose --project-directory {escape(str(folder))} up --build", soft_wrap=True)


@app.command()
def down(home: Home = None) -> None:
    """Ends the cluster. Blobs, results and settings stay for the next `up`."""
    cluster = _cluster(home)
    with console.status("ending"):
        cluster.down()
    console.print("down")


def main() -> None:
    """Runs a command; what a user can mend is said in one message."""
    try:
        app()
    except (ClusterError, SetupError, ValueError) as error:
        console.print(f"cluster: {escape(str(error))}", style="red", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Brings up workers for remote execution on this machine, and says how they are.

usage: ./bazelw run //tools/remote:cluster -- up --pool cpu=2 --pool gpu=1
"""

from __future__ import annotations

import collections
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tools.bazel.progress import SetupError
from tools.remote import pools
from tools.remote.cluster import Cluster, ClusterError
from tools.remote.places import Places, default_home
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
    port: Annotated[int, typer.Option(help="Its port.")] = 50051,
    quota: Annotated[str, typer.Option(help="Disk that blobs may take.")] = "30G",
    secure: Annotated[bool, typer.Option("--secure", help="TLS with certificates on both sides, and tokens.")] = False,
    queue_timeout: Annotated[int, typer.Option(help="Seconds that a test may wait for a worker.")] = 1800,
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
    counts = collections.Counter(each.pool for each in wanted.all_workers())
    workers = ", ".join(f"{name} {count}" for name, count in counts.items())
    config = "remote_tls" if wanted.secure else "remote"
    console.print(f"up at {wanted.url}, workers: {workers}; ./bazelw test //... --config={config}")


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
def drain(worker: Annotated[str, typer.Argument(help="Name of the worker, such as gpu-1.")], home: Home = None) -> None:
    """Lets a worker finish its test, then takes it out."""
    _cluster(home).drain(worker)
    console.print(f"{worker} is out")


@app.command()
def logs(
    process: Annotated[str, typer.Argument(help="scheduler, casd, postgres, supervisor, worker-NAME.")],
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

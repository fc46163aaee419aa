"""What Bazel tells engines of remote execution: the one table behind remote.bazelrc and docs/remote_engines.md.

usage: ./bazelw run //tools/remote:engines
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tools.remote.fleet import tunnel

BAZELRC = "tools/remote/remote.bazelrc"
DOCUMENT = "docs/remote_engines.md"

_ADDRESS = "127.0.0.1:50051"


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine, and how what a test declares (`test.Pool`) reaches it.

    Attributes:
      name: as people write it.
      sources: where it is documented.
      pool: how it takes the execution property Pool.
      gpu: how a test comes by its devices.
      image: how it takes the container image in which actions run; "" where it has none.
      executor: its address; "" where each installation has its own.
      properties: what it wants of every action beside the pool.
      own: lines for user.bazelrc, which names what only the user knows.
    """

    name: str
    sources: tuple[str, ...]
    pool: str
    gpu: str
    image: str = ""
    executor: str = ""
    properties: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def config(self) -> str:
        """The name of its --config."""
        return f"remote_{self.name.lower()}"


_IMAGE = "--remote_default_exec_properties=container-image=docker://IMAGE@sha256:DIGEST"

# The first is the cluster of //tools/remote, and the only one that was tried; of the others the documentation was read.
ENGINES = (
    Engine(
        name="BuildGrid",
        sources=("https://gitlab.com/BuildGrid/buildgrid",),
        pool="the key Pool (buildgrid.yml); a pool that is not there is refused, and the message names those there are",
        gpu="the worker of a pool sets CUDA_VISIBLE_DEVICES or NEURON_RT_VISIBLE_CORES to the devices that are its own",
    ),
    Engine(
        name="BuildBuddy",
        sources=("https://www.buildbuddy.io/docs/rbe-pools", "https://www.buildbuddy.io/docs/rbe-platforms"),
        pool="the key Pool; executors of your own join one by the variable MY_POOL",
        gpu="executors of your own in the pools gpu and multi-gpu, on hosts that have them",
        image="the key container-image",
        executor="grpcs://remote.buildbuddy.io",
        properties=("OSFamily=Linux",),
        own=("--remote_header=x-buildbuddy-api-key=KEY", _IMAGE),
    ),
    Engine(
        name="EngFlow",
        sources=(
            "https://docs.engflow.com/re/config/pools.html",
            "https://docs.engflow.com/docs/re/client/platform-options.html",
            "https://github.com/SeleniumHQ/selenium/blob/trunk/common/remote-build/BUILD.bazel",
        ),
        pool="the key Pool; workers join one by --worker_config=...,pool=NAME; an unknown key is an error",
        gpu="the pools gpu and multi-gpu, on hosts that have them",
        image="the key container-image",
        own=("--remote_executor=grpcs://CLUSTER.cluster.engflow.com", _IMAGE),
    ),
    Engine(
        name="Buildbarn",
        sources=("https://github.com/buildbarn/bb-deployments",),
        pool=(
            "a worker's properties (runners.platform.properties) must be those of the action, all of them: "
            "{name: 'Pool', value: 'gpu'} beside OSFamily and container-image"
        ),
        gpu="the pools gpu and multi-gpu, on hosts that have them",
        image="the key container-image, by which workers are chosen: theirs is what their host says",
        properties=("OSFamily=Linux",),
        own=("--remote_executor=grpc://HOST:8980", "--remote_instance_name=INSTANCE", _IMAGE),
    ),
    Engine(
        name="NativeLink",
        sources=(
            "https://github.com/TraceMachina/nativelink/blob/main/web/platform/src/content/docs/docs/nativelink-cloud/rbe.mdx",
            "https://github.com/TraceMachina/nativelink/blob/main/nativelink-config/examples/basic_cas.json5",
        ),
        pool=(
            "the key Pool; in their cloud its values are set up with them, in one of your own the scheduler "
            'lists "Pool": "exact" in supported_platform_properties, and a worker "Pool": {"values": ["gpu"]} in '
            "platform_properties"
        ),
        gpu="the pools gpu and multi-gpu, on hosts that have them",
        image="the key container-image",
        own=("--remote_executor=grpcs://scheduler-ACCOUNT.build-faster.nativelink.net:443", _IMAGE),
    ),
)

_REMOTE = (
    # (configuration, flags, why)
    (
        "remote",
        (
            "--config=fleet",
            f"--remote_executor=grpc://{_ADDRESS}",
            "--remote_default_exec_properties=Pool=cpu",
            "--spawn_strategy=remote",
            "--strategy=TestRunner=remote,sandboxed",
            "--strategy=SitePackages=local",
            "--remote_local_fallback=false",
            "--remote_download_minimal",
            "--remote_max_connections=1",
            "--remote_retries=20",
            "--grpc_keepalive_time=10s",
            "--experimental_remote_cache_eviction_retries=5",
            "--jobs=16",
        ),
        "Tests and builds run on workers, or fail: none falls back to this machine. (Here run tests that are tagged\n"
        "no-remote-exec: they bring up Bazel or a cluster themselves.) One connection, because each call\n"
        "on it takes a thread of the scheduler's. Wheels are linked here (third_party/python/site_packages.bzl).",
    ),
    (
        "remote_tls",
        ("--config=remote", f"--remote_executor=grpcs://{_ADDRESS}"),
        "The same with certificates and tokens: `cluster up --secure` says where they are.",
    ),
    (
        "remote_tunnel",
        ("--config=remote", f"--remote_executor=grpc://{tunnel.HOST}:{tunnel.PORT}"),
        "The same for a Bazel that speaks no TLS: `cluster tunnel` runs meanwhile.",
    ),
    (
        "remote_cache",
        (f"--remote_cache=grpc://{_ADDRESS}", "--remote_download_minimal"),
        "Tests run here; results are shared. They are not those of --config=remote, whose tests have other inputs.",
    ),
)


def bazelrc() -> str:
    """The content of remote.bazelrc."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Remote execution: docs/remote_engines.md. Made from engines.py, which says how."
    yield "# An address of your own goes into user.bazelrc: build:remote --remote_executor=grpc://HOST:PORT"
    for config, flags, why in _REMOTE:
        yield ""
        yield from (f"# {line}" for line in why.splitlines())
        yield from (f"build:{config} {flag}" for flag in flags)
    for engine in ENGINES[1:]:
        yield ""
        yield f"# {engine.name}, from its documentation; not tried. In user.bazelrc:"
        yield from (f"#   build:{engine.config} {flag}" for flag in engine.own)
        yield f"build:{engine.config} --config=remote"
        yield f"build:{engine.config} --remote_max_connections=100"
        if engine.executor:
            yield f"build:{engine.config} --remote_executor={engine.executor}"
        yield from (f"build:{engine.config} --remote_default_exec_properties={each}" for each in engine.properties)


def table() -> str:
    """The table in docs/remote_engines.md."""
    head = "| engine | `--config` | pool | GPU | container image | known from |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {each.name} | `{each.config if number else 'remote'}` | {each.pool} | {each.gpu} | {each.image or '-'} "
        f"| {'' if number else 'tried; '}{', '.join(f'<{source}>' for source in each.sources)} |\n"
        for number, each in enumerate(ENGINES)
    )


def with_table(text: str) -> str:
    """The text of the document with the table as it is now."""
    return re.sub(r"^\| engine \|.*\n(\|.*\n)*", lambda _: table(), text, flags=re.MULTILINE)


def main() -> None:
    """Writes both files anew."""
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    (root / BAZELRC).write_text(bazelrc())
    (root / DOCUMENT).write_text(with_table((root / DOCUMENT).read_text()))


if __name__ == "__main__":
    main()

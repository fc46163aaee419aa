"""The configuration of BuildGrid, the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from tools.remote.places import Places

_TEMPLATE = Path(__file__).with_name("buildgrid.yml")
# Seconds without a word after which a worker is taken for dead.
SILENCE_SECONDS = 60


def render(places: Places, pools: Sequence[str], address: str, queue_seconds: int, *, secure: bool) -> str:
    """The text of its configuration file.

    Args:
      places: of the cluster.
      pools: those that it knows; the first is the default.
      address: HOST:PORT to listen on.
      queue_seconds: how long a test may wait for a worker.
      secure: TLS with certificates on both sides, and tokens.
    """
    labels = "".join(f"        - {{ label: {pool}, properties: [[Pool, {pool}]] }}\n" for pool in pools)
    channel = f'    address: "{address}"\n    insecure-mode: {"false" if secure else "true"}\n'
    authorization = ""
    if secure:
        tls = places.tls
        channel += (
            "    credentials:\n"
            f"      tls-server-key: {tls}/server.key\n"
            f"      tls-server-cert: {tls}/server.pem\n"
            f"      tls-client-certs: {tls}/ca.pem\n"
        )
        authorization = (
            "authorization:\n  method: jwt\n"
            f"  secret: {tls}/token.secret\n  algorithm: hs256\n  acl-config: {places.run}/acl.yml\n"
        )
    return Template(_TEMPLATE.read_text()).substitute(
        channel=channel,
        authorization=authorization,
        run=places.run,
        casd=places.casd_socket,
        silence=SILENCE_SECONDS,
        queue_seconds=queue_seconds,
        labels=labels,
        name="$name",
    )


def access(workers: str, clients: str) -> str:
    """The text of its access list: what the subjects of two kinds of token may ask for.

    Workers may not execute, clients may not register as workers or write action results.
    """
    blobs = ["FindMissingBlobs", "BatchUpdateBlobs", "BatchReadBlobs", "GetTree", "Read", "Write", "QueryWriteStatus"]
    rights = {
        workers: ["GetCapabilities", "CreateBotSession", "UpdateBotSession", "GetActionResult", "UpdateActionResult"],
        clients: ["GetCapabilities", "Execute", "WaitExecution", "GetActionResult", "GetOperation", "CancelOperation"],
    }
    lines = ['"":', "  allow:"]
    for subject, requests in rights.items():
        lines += [f"    - subject: ^{subject}$", f"      requests: [{', '.join([*requests, *blobs])}]"]
    return "\n".join(lines) + "\n"

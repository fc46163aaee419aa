"""The configuration of BuildGrid, the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from tools.remote.places import Places
from tools.remote.settings import Settings

_TEMPLATE = Path(__file__).with_name("buildgrid.yml")


def render(places: Places, pools: Sequence[str], wanted: Settings) -> str:
    """The text of its configuration file.

    Args:
      places: of the cluster.
      pools: those that it knows; the first is the default.
      wanted: what it is asked to be.
    """
    labels = "".join(f"        - {{ label: {pool}, properties: [[Pool, {pool}]] }}\n" for pool in pools)
    channel = f'    address: "{wanted.address}"\n    insecure-mode: {"false" if wanted.secure else "true"}\n'
    authorization = ""
    if wanted.secure:
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
        silence=wanted.silence_seconds,
        queue_seconds=wanted.queue_seconds,
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

"""Two hosts with a network between them, for tests: namespaces of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
      name: its own.
      address: where the other one finds it.
      within: words before a command, so that it runs there.
    """

    name: str
    address: str
    within: tuple[str, ...]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whatever it is."""
        return subprocess.run([*self.within, *words], capture_output=True, text=True, check=False)

    def do(self, *words: str) -> None:
        """Runs a command.

        Raises:
          subprocess.CalledProcessError: it fails.
        """
        self.run(*words).check_returncode()


@contextlib.contextmanager
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts. Where the machine makes no namespaces, both are the machine itself."""
    with contextlib.ExitStack() as stack:
        try:
            hosts = _linked(stack)
        except (OSError, subprocess.CalledProcessError):
            here = Host(socket.gethostname(), "127.0.0.1", ())
            hosts = here, here
        yield hosts


def _linked(stack: contextlib.ExitStack) -> tuple[Host, Host]:
    # (who is not root is so in a namespace of users, which the second host shares)
    as_root = os.geteuid() == 0
    near, _ = _host(stack, Host("near", "10.77.0.1", ()), () if as_root else ("--user", "--map-root-user"))
    far, pid = _host(stack, Host("far", "10.77.0.2", near.within), ())
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
    near.do(ip, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", pid)
    for host in (near, far):
        host.do("hostname", host.name)
        host.do(ip, "address", "add", f"{host.address}/24", "dev", "wire")
        for device in ("lo", "wire"):
            host.do(ip, "link", "set", device, "up")
    return near, far


def _host(stack: contextlib.ExitStack, wanted: Host, more: Sequence[str]) -> tuple[Host, str]:
    """A host made from within another, and the process that holds its namespaces."""
    command = [
        *wanted.within,
        "unshare",
        *more,
        "--net",
        "--uts",
        "--mount",
        "sh",
        "-c",
        "echo $$; exec sleep infinity",
    ]
    holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(holder.kill)
    assert holder.stdout is not None
    pid = holder.stdout.readline().strip()
    if not pid:
        raise OSError("no namespaces")
    user = ("--user", "--preserve-credentials") if "--user" in (*more, *wanted.within) else ()
    within = ("nsenter", f"--target={pid}", *user, "--net", "--uts", "--mount", "--")
    return dataclasses.replace(wanted, within=within), pid

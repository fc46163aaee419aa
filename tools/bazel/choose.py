"""Which Bazel runs, and in which world."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.bazel import bazelisk, registry, relocate, store, wheels
from tools.bazel.debian import Apt
from tools.bazel.progress import SetupError, say, step

ROOT = Path(__file__).resolve().parents[2]
WORLDS = ("online", "offline")
# What decides the content of a cache entry: a change of these files gives another one.
_RECIPE = ("debian.py", "elf.py", "relocate.py", "requirements.txt")


@dataclasses.dataclass(frozen=True)
class Bazel:
    """A Bazel to run.

    Attributes:
      program: what is executed.
      world: `online` or `offline`.
      startup: startup options.
      environ: variables to set for it.
      share: where Debian's modules are (offline only).
    """

    program: str
    world: str
    startup: tuple[str, ...] = ()
    environ: dict[str, str] = dataclasses.field(default_factory=dict)
    share: Path | None = None


def bazel(version: str) -> Bazel:
    """The Bazel `version` to run: found on PATH, downloaded by bazelisk, or assembled from Debian's packages.

    The decision is kept, so only the first call takes time; BAZELW_WORLD=online|offline decides anew by force.

    Raises:
      SetupError: none can be had; says why.
    """
    forced = os.environ.get("BAZELW_WORLD", "")
    if forced and forced not in WORLDS:
        raise SetupError(f"BAZELW_WORLD={forced}: it is {' or '.join(WORLDS)}, or unset to find out")
    found = _on_path(version)
    decided = _entry(f"bazel-{version}").exists()
    if found is None and (forced == "online" or not (forced or decided)):
        found = bazelisk.provide(version)
    if found is None:
        if forced == "online":
            raise SetupError(f"BAZELW_WORLD=online, but Bazel {version} is not on PATH and cannot be downloaded")
        return _assembled(version)
    world = forced or _world(found, version)
    share = None
    if world == "offline":
        share = store.ensure(_entry(f"modules-{version}").name, lambda f: relocate.modules(f, version), needs_mb=300)
        share = share / "share"
    return Bazel(found, world, environ={"USE_BAZEL_VERSION": version}, share=share)


def uv() -> Path:
    """The locked uv, which the repository rules for wheels run."""
    digest = hashlib.sha256(wheels.requirement("uv", wheels.LOCK.read_text()).encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        def find_pip() -> list[str]:
            pip = wheels.host_pip()
            if pip is None:
                apt = Apt(folder.with_name(folder.name + ".downloads"))
                apt.update()
                pip = relocate.debian_pip(apt, folder / "pip")
            return pip

        wheels.fetch("uv", folder, find_pip)

    return wheels.program(store.ensure(f"uv-{digest}", build, needs_mb=200), "uv")


def write_rc(chosen: Bazel, uv_program: Path, uv_environment: dict[str, str]) -> Path:
    """Writes the options that hold for this machine to a file for `--bazelrc`; returns its path."""
    options = [f"--repo_env=TRAINYARD_UV={uv_program}"]
    options += [f"--repo_env={key}={value}" for key, value in sorted(uv_environment.items())]
    if chosen.share is not None:
        options += relocate.module_overrides(chosen.share)
        # Bazel's sandbox has a /tmp of its own, which would hide an install base below the machine's, and this file.
        if chosen.share.is_relative_to("/tmp"):
            options.append(f"--sandbox_add_mount_pair={store.root()}")
    options.append(f"--config={chosen.world}")
    # The name comes from all but the last line, which may therefore have the name in it.
    identity = repr((chosen.program, chosen.startup, chosen.environ, options))
    path = store.root() / f"rc-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    options.append(f"--repo_env=TRAINYARD_BAZEL={shlex.join(_portable(chosen, path))}")
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=store.root(), delete=False) as file:
            file.write("".join(f"common {_quoted(option)}\n" for option in options))
        os.replace(file.name, path)
    return path


def command(chosen: Bazel, rc: Path) -> tuple[str, ...]:
    """The command that runs `chosen` with the options of `rc`; further startup options may follow."""
    return (chosen.program, *chosen.startup, f"--bazelrc={rc}")


def witnesses() -> list[str] | None:
    """The files and folders that the choice of Bazel and its rc come from; None if they do not tell all.

    A script on PATH, such as a version manager's shim, may answer differently tomorrow though it is the same.
    """
    here = Path(__file__).parent
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    programs = [folder / name for folder in folders for name in ("bazel", "bazelisk")]
    if any(map(_is_script, programs)):
        return None
    tool = [ROOT / ".bazelversion", here, *(path for path in here.iterdir() if path.suffix in (".py", ".txt"))]
    cache = [store.root(), store.root() / "world.json", *store.root().glob("*/.complete")]
    return [str(path) for path in (*tool, *cache, *registry.pip_files(os.environ), *programs)]


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _portable(chosen: Bazel, rc: Path) -> tuple[str, ...]:
    """`command` with the variables that it needs."""
    variables = [f"{key}={value}" for key, value in sorted(chosen.environ.items())]
    return (*(["env", *variables] if variables else []), *command(chosen, rc))


def _quoted(option: str) -> str:
    """An option as Bazel's rc files spell it."""
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _entry(kind: str) -> Path:
    digest = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in _RECIPE)).hexdigest()[:12]
    return store.root() / f"{kind}-{digest}"


def _assembled(version: str) -> Bazel:
    folder = store.ensure(_entry(f"bazel-{version}").name, lambda f: relocate.assemble(f, version), needs_mb=1000)
    share = folder / "share"
    return Bazel(
        program=str(folder / "bazel"),
        world="offline",
        startup=(
            "--nosystem_rc",
            f"--server_javabase={folder / 'java'}",
            f"--install_base={share}",
            "--trust_install_base",
        ),
        share=share,
    )


def _on_path(version: str) -> str | None:
    """A `bazel` of this version, or a `bazelisk` that gives one, on PATH."""
    for name in ("bazel", "bazelisk"):
        program = shutil.which(name)
        if program and bazelisk.gives(program, version):
            return program
    return None


def _world(program: str, version: str) -> str:
    """Asks Bazel itself, once, whether its registry can be reached."""
    kept = store.root() / "world.json"
    key = f"{program} {version}"
    answers = json.loads(kept.read_text()) if kept.exists() else {}
    if key in answers:
        return str(answers[key])
    with step("asking Bazel whether its module registry can be reached"):
        result = subprocess.run(
            [program, "mod", "--config=online", "dump_repo_mapping", ""],
            cwd=ROOT,
            env={**os.environ, "HOME": str(store.home()), "USE_BAZEL_VERSION": version},
            capture_output=True,
            text=True,
            check=False,
        )
    unreachable = re.search(r"(?i)unknown host|error accessing registry|connect|timed out|PKIX", result.stderr)
    if result.returncode and not unreachable:
        raise SetupError(f"{program} does not load this workspace:\n{result.stderr}")
    world = "offline" if result.returncode else "online"
    say(f"the registry can{'not' if world == 'offline' else ''} be reached: {world} from now on ({kept})")
    store.root().mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({**answers, key: world}, indent=1))
    return world

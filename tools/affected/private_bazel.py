"""A Bazel server of our own on a checkout of our own: questions about a tree disturb nobody."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Seconds after which an idle server ends; the next question starts another.
_IDLE_SECONDS = 1800
_QUIET = ("--noshow_progress", "--color=no", "--curses=no", "--ui_event_filters=-info", "--noshow_loading_progress")
# A test that cannot run in a configuration has no actions there; it is no error to ask for them.
_CONFIGURED = ("--skip_incompatible_explicit_targets",)

# (Linux takes 128 KiB an argument)
_LONGEST_ARGUMENT = 50_000
_DEEPEST_IMPORT = 20
# A file whose content or existence an evaluation in the server depends on: its root, its path below.
_FILE_KEY = re.compile(r"^FILE_STATE:\[(.*)\]/\[(.*)\]$", re.MULTILINE)
_SERVER_TRIPPED = re.compile(r"Inconsistent filesystem|no longer an existing directory|FATAL:|crash|Server terminated")


# A rule that watches whole folders to hear of new files depends on what each file says. Here it need not.
NAMES_VARIABLE = "TRAINYARD_FILE_NAMES"


class BazelError(Exception):
    """Bazel could not answer; the message is what it said."""


class PrivateBazel:
    """Asks about the workspace in `folder`, with an output base beside it.

    Attributes:
      folder: the workspace.
      output_base: where this Bazel keeps all that is its own.
      names: a digest of the names of the files in the workspace, told to repository rules as NAMES_VARIABLE.
    """

    def __init__(self, command: Sequence[str], folder: Path, flags: Sequence[str], server: int = 0) -> None:
        """See the class.

        Args:
          command: arguments that start Bazel, startup options included.
          folder: the workspace.
          flags: options of every question; those that a question does not know are skipped.
          server: which of several on this workspace.
        """
        self.folder = folder
        self.output_base = folder.with_name(f"{folder.name}.output{server or ''}")
        self.names = ""
        self._command = tuple(command)
        self._flags = tuple(flags)

    def cquery(self, expression: str, *flags: str) -> bytes:
        """The answer to a question about configured targets.

        Raises:
          BazelError: the workspace does not load or cannot be analysed.
        """
        return self._ask("cquery", expression, (*_CONFIGURED, *flags))

    def aquery(self, expression: str, *flags: str) -> bytes:
        """The answer to a question about actions.

        Raises:
          BazelError: the workspace does not load or cannot be analysed.
        """
        return self._ask("aquery", expression, (*_CONFIGURED, *flags))

    def query(self, expression: str, *flags: str) -> bytes:
        """The answer to a question about targets.

        Raises:
          BazelError: the workspace does not load.
        """
        return self._ask("query", expression, flags)

    def read_files(self) -> set[str] | None:
        """Paths in the workspace of the files that Bazel read to load and analyse it; None if it does not tell.

        Whether a file is there counts as reading it. A file that only an action reads is not among them. Files that
        were read for other states of the workspace may be.
        """
        try:
            dump = self._run("dump", ["--skyframe=deps", "--skykey_filter=^FILE_STATE:.*"]).decode(errors="replace")
        except BazelError:
            return None
        read = set()
        for root, path in _FILE_KEY.findall(dump):
            file = os.path.join("/" if root.startswith("<") else root, path)
            for folder in {str(self.folder), os.path.realpath(self.folder)}:
                if file.startswith(f"{folder}/"):
                    read.add(file[len(folder) + 1 :])
        # (what no answer of Bazel's lacks: the format of a dump is not promised)
        if not any(path.rpartition("/")[2] in ("BUILD", "BUILD.bazel") for path in read):
            return None
        rcs: set[Path] = set()
        rc_lines(self.folder / ".bazelrc", self.folder, files=rcs)
        return read | {os.path.relpath(rc, self.folder) for rc in rcs}

    def build(self, labels: Sequence[str], flags: Sequence[str]) -> None:
        """Builds targets, as far as they can be built.

        Raises:
          BazelError: one failed; others may have been built.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".targets") as file:
            file.write("\n".join(labels))
            file.flush()
            options = [
                "--keep_going",
                "--experimental_convenience_symlinks=ignore",
                f"--target_pattern_file={file.name}",
            ]
            self._run("build", [*_CONFIGURED, *flags, *options])

    def output(self, path: str) -> Path:
        """Where a file stands that an action makes."""
        return self.output_base / "execroot" / "_main" / path

    def shut_down(self) -> None:
        """Ends the server."""
        # (without any rc: that of the tree that is checked out may be broken)
        startup = [*self._command, "--ignore_all_rc_files", f"--output_base={self.output_base}"]
        subprocess.run([*startup, "shutdown"], cwd=self.folder, capture_output=True, check=False)

    @classmethod
    def shut_down_all(cls, command: Sequence[str], folder: Path) -> None:
        """Ends all servers on the workspace in `folder`."""
        for server in range(len([*folder.parent.glob(f"{folder.name}.output*")])):
            cls(command, folder, (), server).shut_down()

    def _write_rc(self) -> Path:
        file = self.folder.with_name(self.folder.name + ".bazelrc")
        flags = [*_QUIET, *self._flags, f"--repo_env={NAMES_VARIABLE}={self.names}"]
        text = common_rc(self.folder) + "".join(f"common {_quoted(flag)}\n" for flag in flags)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        return file

    def _startup(self) -> list[str]:
        return [
            *self._command,
            "--noworkspace_rc",  # (ours has what it says)
            f"--bazelrc={self._write_rc()}",
            f"--output_base={self.output_base}",
            f"--max_idle_secs={_IDLE_SECONDS}",
        ]

    def _ask(self, verb: str, expression: str, flags: Sequence[str]) -> bytes:
        try:
            return self._ask_once(verb, expression, flags)
        except BazelError as error:
            # A server that went from one commit to another may trip over a folder that a repository rule watched.
            if not _SERVER_TRIPPED.search(str(error)):
                raise
            self.shut_down()
            return self._ask_once(verb, expression, flags)

    def _ask_once(self, verb: str, expression: str, flags: Sequence[str]) -> bytes:
        # Not by standard output: without colours, Bazel takes for an escape sequence what looks like one in a binary
        # answer of aquery or cquery (the numbers 27 and 91, in this order), and drops bytes.
        with tempfile.NamedTemporaryFile(suffix=".answer") as answer:
            flags = [*flags, f"--output_file={answer.name}"]
            if len(expression) <= _LONGEST_ARGUMENT:
                self._run(verb, [*flags, "--", expression])
            else:
                with tempfile.NamedTemporaryFile("w", suffix=".query") as file:
                    file.write(expression)
                    file.flush()
                    self._run(verb, [*flags, f"--query_file={file.name}"])
            return Path(answer.name).read_bytes()

    def _run(self, verb: str, arguments: Sequence[str]) -> bytes:
        result = subprocess.run(
            [*self._startup(), verb, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if result.returncode:
            raise BazelError(result.stderr.decode(errors="replace").strip() or f"exit status {result.returncode}")
        return result.stdout


def common_rc(workspace: Path) -> str:
    """The options that the workspace's .bazelrc gives to `test`, for every command.

    A test's configuration comes from `bazel test`, whose options queries do not read: `aquery` stops at those of
    `build`. `common` skips what a command does not know. The order is that of their weight: for all commands, for
    builds, for tests.

    Raises:
      BazelError: an rc file imports one that is not there.
    """
    lines = rc_lines(workspace / ".bazelrc", workspace)
    text = "".join(f"startup {options}\n" for command, options in lines if command == "startup")
    for names in (("always", "common"), ("build",), ("test",)):
        for command, options in lines:
            name, colon, config = command.partition(":")
            if name in names:
                text += f"common{colon}{config} {options}\n"
    return text


def rc_lines(file: Path, workspace: Path, *, files: set[Path] | None = None, depth: int = 0) -> list[tuple[str, str]]:
    """The lines of an rc file, imports followed: command and options; [] where there is no such file.

    Args:
      file: the rc file.
      workspace: what `%workspace%` stands for.
      files: receives the file and those that it imports, there or not.
      depth: how many files import this one.

    Raises:
      BazelError: it imports a file that is not there.
    """
    if files is not None:
        files.add(file)
    try:
        text = file.read_text(errors="surrogateescape")
    except OSError:
        return []
    found: list[tuple[str, str]] = []
    for line in text.replace("\\\n", "").splitlines():
        command, _, options = line.strip().partition(" ")
        options = options.strip()
        if command in ("import", "try-import") and depth < _DEEPEST_IMPORT:
            imported = Path(options.strip("'\"").replace("%workspace%", str(workspace)))
            if command == "import" and not imported.is_file():
                raise BazelError(
                    f"{file.name}: `import {options}`: no such file (is it ignored by git?); add it, or try-import"
                )
            found += rc_lines(imported, workspace, files=files, depth=depth + 1)
        elif command and not command.startswith("#"):
            found.append((command, options))
    return found


def _quoted(word: str) -> str:
    """A word as Bazel reads it from an rc file, where a backslash takes the next character as it is."""
    return re.sub(r"([\\\s'\"#])", r"\\\1", word)

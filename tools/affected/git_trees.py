"""States of the repo as git trees: a commit's, and the working tree's with all that is uncommitted."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.affected.selection import SelectError

# The mode of a symbolic link.
LINK = "120000"
_MAIN_BRANCHES = ("origin/HEAD", "origin/main", "main", "origin/master", "master")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file of a tree.

    Attributes:
      mode: `100644`, `100755` (executable), `120000` (symbolic link), `160000` (submodule).
      blob: id of its content.
    """

    mode: str
    blob: str


# Whatever the user's configuration says: nothing written beside their index, no hooks.
_ALONE = ("-c", "core.splitIndex=false", "-c", "core.hooksPath=/dev/null")
# All files, byte for byte.
_AS_IT_IS = ("-c", "core.sparseCheckout=false", "-c", "core.autocrlf=false")

# Path to its entry in base and in head; None where it has none.
Changes = dict[str, tuple[Entry | None, Entry | None]]


class Repo:
    """A git repository with a Bazel workspace at `root`, which may be a folder of it.

    Nothing is written to the user's repository: objects of uncommitted files go to `scratch`.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "objects").mkdir(exist_ok=True)
        facts = self._git(
            "rev-parse", "--show-prefix", "--git-path", "index", "--git-path", "objects", "--absolute-git-dir"
        )
        self._prefix, index, objects, self._git_dir = facts.split("\n")
        self._index = root / index
        self._environ = {
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / objects).resolve()),
        }

    def tree(self, revision: str) -> str:
        """The tree of a revision.

        Raises:
          SelectError: there is no such revision here, or it has no such workspace.
        """
        try:
            self._git("rev-parse", "--verify", "--quiet", f"{revision}^{{tree}}")
        except SelectError as error:
            raise SelectError(
                f"{revision}: not a revision of {self.root}; see git log, and in a shallow clone fetch it first "
                f"(git fetch --unshallow)"
            ) from error
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"{revision}^{{tree}}:{self._prefix}".rstrip(":"))
        except SelectError as error:
            raise SelectError(
                f"{revision} has no folder {self._prefix.rstrip('/')}: there is no workspace to compare"
            ) from error

    def merge_base(self, main: str | None) -> str:
        """The last commit that HEAD shares with the main branch.

        Args:
          main: its name, on `origin` or here; None takes the first that exists of origin/HEAD, origin/main, main,
            origin/master, master.

        Raises:
          SelectError: there is no such branch or no common commit.
        """
        names = (f"origin/{main}", main) if main else _MAIN_BRANCHES
        for name in names:
            try:
                self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
            except SelectError:
                continue
            try:
                return self._git("merge-base", "HEAD", name)
            except SelectError as error:
                raise SelectError(
                    f"HEAD and {name} have no common commit here: name the base (--base REV), or fetch more of a "
                    "shallow clone (git fetch --unshallow)"
                ) from error
        raise SelectError(f"no main branch ({', '.join(names)}): name the base, --base REV")

    def working_tree(self) -> str:
        """The tree of what is on disk: uncommitted and untracked files included, ignored ones not."""
        index = self._scratch / f"working-{os.getpid()}.index"
        try:
            if self._index.exists():
                shutil.copy2(self._index, index)  # with its times of files: only changed ones are read
            environ = {**self._environ, "GIT_INDEX_FILE": str(index)}
            # Bazel's own links for people, where no .gitignore names them.
            links = [path.name for path in self.root.glob("bazel-*") if path.is_symlink()]
            if links:
                links = sorted(set(links) - set(self._git("ls-files", "-z", "--", *links).split("\0")))
            self._git("add", "--all", "--", ".", environ=environ)
            if links:
                self._git("update-index", "--force-remove", "--", *links, environ=environ)
            if not self._prefix:
                return self._git("write-tree", environ=environ)
            try:
                return self._git("write-tree", f"--prefix={self._prefix}", environ=environ)
            except SelectError:
                return self._git("mktree", environ=environ)  # (nothing in it that git does not ignore)
        finally:
            index.unlink(missing_ok=True)

    def check_out(self, tree: str, folder: Path) -> None:
        """Makes `folder`, which is ours alone, hold the files of `tree`; unchanged ones keep their times."""
        index = folder.with_name(folder.name + ".index")
        # Away while git works: where a run was killed there is none, and the next begins with an empty folder.
        busy = index.with_name(index.name + ".busy")
        busy.unlink(missing_ok=True)
        busy.with_name(busy.name + ".lock").unlink(missing_ok=True)
        if index.exists() and folder.is_dir():
            os.replace(index, busy)
            try:
                self._read_tree(tree, folder, busy)
            except SelectError:
                busy.unlink(missing_ok=True)  # (damaged, perhaps)
        if not busy.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._read_tree(tree, folder, busy)
        os.replace(busy, index)

    def _read_tree(self, tree: str, folder: Path, index: Path) -> None:
        environ = {
            **self._environ,
            "GIT_DIR": self._git_dir,
            "GIT_INDEX_FILE": str(index),
            "GIT_WORK_TREE": str(folder),
        }
        self._git(*_AS_IT_IS, "read-tree", "-u", "--reset", tree, environ=environ, cwd=folder)

    def files(self, tree: str) -> dict[str, Entry]:
        """All files of a tree by path."""
        listing = self._git("ls-tree", "-r", "-z", "--full-tree", tree, environ=self._environ)
        found = {}
        for record in listing.split("\0"):
            if record:
                facts, _, path = record.partition("\t")
                mode, _, blob = facts.split(" ")
                found[path] = Entry(mode, blob)
        return found

    def content(self, tree: str, path: str) -> str | None:
        """The text of a file of a tree; None where it has none such."""
        try:
            return self._git("cat-file", "blob", f"{tree}:{path}", environ=self._environ, strip=False)
        except SelectError:
            return None

    def changed(self, base: str, head: str) -> Changes:
        """Paths whose mode or content differ between two trees: (in base, in head)."""
        listing = self._git("diff-tree", "-r", "-z", "--no-renames", base, head, environ=self._environ)
        fields = listing.split("\0")
        found: Changes = {}
        for facts, path in zip(fields[::2], fields[1::2], strict=False):
            old_mode, new_mode, old, new, _ = facts.lstrip(":").split(" ")
            found[path] = (
                None if not old.strip("0") else Entry(old_mode, old),
                None if not new.strip("0") else Entry(new_mode, new),
            )
        return found

    def _git(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        strip: bool = True,
    ) -> str:
        # (a hook that calls us has set variables that name its own repository and index)
        clean = {key: value for key, value in os.environ.items() if not re.match(r"GIT_(?!CONFIG|SSL|SSH)", key)}
        result = subprocess.run(
            ["git", *_ALONE, *arguments],
            cwd=cwd or self.root,
            env={**clean, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        if result.returncode:
            raise SelectError(f"git {' '.join(arguments)} failed in {cwd or self.root}: {result.stderr.strip()}")
        return result.stdout.removesuffix("\n") if strip else result.stdout

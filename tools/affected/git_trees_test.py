import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tools.affected.git_trees import Entry, Repo
from tools.affected.selection import SelectError


@pytest.fixture(autouse=True)
def nobodys_git(monkeypatch, tmp_path):
    """git as on a machine where nobody configured it, whoever started the test."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def git(root: Path, *arguments: str, **variables: str) -> str:
    options = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    options += ["-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false"]
    environ = {**os.environ, **variables}
    done = subprocess.run(["git", *options, *arguments], cwd=root, env=environ, capture_output=True, check=True)
    return os.fsdecode(done.stdout).strip()


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def commit(root: Path, files: dict[str, str] | None = None, message: str = "change") -> str:
    write(root, files or {})
    git(root, "add", "--all")
    git(root, "commit", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init")
    commit(folder, {"a.txt": "a", "lib/b.py": "b", ".gitignore": "*.log\n/out/\n"})
    return folder


@pytest.fixture
def repo(root, tmp_path):
    return Repo(root, tmp_path / "scratch")


def on_disk(folder: Path) -> dict[str, str]:
    """Path to content, `-> TARGET` for links, of all files below."""
    return {
        str(path.relative_to(folder)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and ".git" not in path.parts
    }


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The working tree.


def test_clean_working_tree_is_that_of_head(repo):
    assert repo.working_tree() == repo.tree("HEAD")


def test_working_tree_has_what_is_on_disk(root, repo):
    write(root, {"a.txt": "changed", "new.txt": "untracked", "noise.log": "ignored", "out/x.txt": "ignored"})
    (root / "lib/b.py").unlink()
    files = repo.files(repo.working_tree())
    assert files.keys() == {"a.txt", "new.txt", ".gitignore"}
    assert repo.content(repo.working_tree(), "a.txt") == "changed"
    assert repo.content(repo.working_tree(), "new.txt") == "untracked"


def test_working_tree_takes_the_file_not_what_is_staged(root, repo):
    write(root, {"a.txt": "staged"})
    git(root, "add", "a.txt")
    write(root, {"a.txt": "on disk"})
    assert repo.content(repo.working_tree(), "a.txt") == "on disk"


def test_tracked_file_counts_though_a_pattern_ignores_it(root, repo):
    write(root, {"kept.log": "1"})
    git(root, "add", "--force", "kept.log")
    git(root, "commit", "-m", "kept")
    write(root, {"kept.log": "2"})
    assert repo.content(repo.working_tree(), "kept.log") == "2"


def test_modes_and_links(root, repo):
    (root / "a.txt").chmod(0o755)
    (root / "link").symlink_to("lib/b.py")
    (root / "dangling").symlink_to("nowhere")
    tree = repo.working_tree()
    files = repo.files(tree)
    assert {path: entry.mode for path, entry in files.items()} == {
        ".gitignore": "100644",
        "a.txt": "100755",
        "dangling": "120000",
        "lib/b.py": "100644",
        "link": "120000",
    }
    assert repo.content(tree, "link") == "lib/b.py"


def test_names(root, repo, tmp_path):
    names = [
        "with space",
        "tab\there",
        "new\nline",
        'quo"te',
        "größe",
        "日本",
        os.fsdecode(b"l\xe4tin"),
        "-dash",
        ":colon",
    ]
    write(root, dict.fromkeys(names, "x"))
    tree = repo.working_tree()
    assert repo.files(tree).keys() == {".gitignore", "a.txt", "lib/b.py", *names}
    assert repo.changed(repo.tree("HEAD"), tree).keys() == set(names)
    repo.check_out(tree, tmp_path / "tree")
    assert all((tmp_path / "tree" / name).read_text() == "x" for name in names)


def test_links_of_bazel_are_left_out_but_not_folders(root, repo, tmp_path):
    for name in ("bazel-out", "bazel-bin", "bazel-repo"):
        (root / name).symlink_to(tmp_path)
    write(root, {"bazel-tools/x.py": "x", "lib/bazel-notes": "x"})
    (root / "lib/bazel-link").symlink_to("b.py")
    added = repo.changed(repo.tree("HEAD"), repo.working_tree())
    assert added.keys() == {"bazel-tools/x.py", "lib/bazel-notes", "lib/bazel-link"}


def test_links_of_bazel_that_are_ignored(root, repo, tmp_path):
    (root / "bazel-out").symlink_to(tmp_path)
    write(root, {".gitignore": "/bazel-*\n"})
    assert repo.changed(repo.tree("HEAD"), repo.working_tree()).keys() == {".gitignore"}


def test_edit_right_after_a_commit_is_seen(root, repo):
    """With the size and time of the old content: git must read such a file."""
    for i in range(3):
        commit(root, {"a.txt": f"{i}o"})
        before = (root / "a.txt").stat()
        write(root, {"a.txt": f"{i}n"})
        os.utime(root / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert repo.content(repo.working_tree(), "a.txt") == f"{i}n"


def test_working_tree_leaves_the_users_repository_as_it_is(root, repo):
    write(root, {"a.txt": "changed", "new.txt": "new", "staged.txt": "s"})
    git(root, "add", "staged.txt")
    os.utime(root / "lib/b.py")  # (a plain `git status` would write this to the index)
    before = everything_in(root)
    repo.changed(repo.tree("HEAD"), repo.working_tree())
    assert everything_in(root) == before


def test_check_out_leaves_the_users_repository_as_it_is(root, repo, tmp_path):
    write(root, {"a.txt": "changed", "new.txt": "new"})
    before = everything_in(root)
    repo.check_out(repo.working_tree(), tmp_path / "tree")
    repo.check_out(repo.tree("HEAD"), tmp_path / "tree")
    assert everything_in(root) == before


def test_no_index_is_left_behind(root, repo, tmp_path):
    repo.working_tree()
    assert not list((tmp_path / "scratch").glob("*.index*"))


# Where the repository is.


def test_workspace_in_a_folder_of_the_repository(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init")
    commit(top, {"ws/a.txt": "a", "other/b.txt": "b"})
    repo = Repo(top / "ws", tmp_path / "scratch")
    assert repo.files(repo.tree("HEAD")).keys() == {"a.txt"}
    assert repo.working_tree() == repo.tree("HEAD")
    write(top, {"ws/lib/new.txt": "n", "other/new.txt": "n"})
    (top / "ws/bazel-out").symlink_to(tmp_path)
    tree = repo.working_tree()
    assert repo.files(tree).keys() == {"a.txt", "lib/new.txt"}
    repo.check_out(tree, tmp_path / "tree")
    assert on_disk(tmp_path / "tree") == {"a.txt": "a", "lib/new.txt": "n"}


def test_linked_worktree(root, tmp_path):
    git(root, "worktree", "add", str(tmp_path / "linked"), "-b", "topic")
    write(root, {"a.txt": "of the first"})
    write(tmp_path / "linked", {"a.txt": "of the linked", "new.txt": "n"})
    repo = Repo(tmp_path / "linked", tmp_path / "scratch")
    tree = repo.working_tree()
    assert repo.content(tree, "a.txt") == "of the linked"
    assert repo.changed(repo.tree("main"), tree).keys() == {"a.txt", "new.txt"}
    repo.check_out(tree, tmp_path / "tree")
    assert on_disk(tmp_path / "tree") == {"a.txt": "of the linked", "lib/b.py": "b", "new.txt": "n"} | {
        ".gitignore": "*.log\n/out/\n"
    }


def test_variables_of_a_hook_do_not_confuse(root, repo, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    commit(other, {"elsewhere.txt": "e"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_PREFIX", "lib/")
    repo = Repo(root, tmp_path / "scratch2")
    write(root, {"new.txt": "n"})
    tree = repo.working_tree()
    assert repo.files(tree).keys() == {".gitignore", "a.txt", "lib/b.py", "new.txt"}
    assert repo.changed(repo.tree("HEAD"), tree).keys() == {"new.txt"}
    repo.check_out(tree, tmp_path / "tree")
    assert (tmp_path / "tree/new.txt").read_text() == "n"
    assert not (other / "new.txt").exists()


def test_repository_that_borrows_objects(root, tmp_path):
    git(tmp_path, "clone", "--shared", str(root), "borrower")
    repo = Repo(tmp_path / "borrower", tmp_path / "scratch")
    write(tmp_path / "borrower", {"new.txt": "n"})
    repo.check_out(repo.working_tree(), tmp_path / "tree")
    assert on_disk(tmp_path / "tree").keys() == {".gitignore", "a.txt", "lib/b.py", "new.txt"}


def test_no_repository(tmp_path):
    with pytest.raises(SelectError, match=f"failed in {tmp_path}.*not a git repository"):
        Repo(tmp_path, tmp_path / "scratch")


# Revisions.


@pytest.mark.parametrize("revision", ["nonsense", "HEAD~9", "0123456789", "--all", "a.txt"])
def test_unknown_revision_is_named(repo, revision):
    with pytest.raises(SelectError, match=f"^{revision}: not a revision of .*git fetch --unshallow"):
        repo.tree(revision)


def test_revisions(root, repo):
    first = git(root, "rev-parse", "HEAD")
    commit(root, {"a.txt": "2"})
    git(root, "tag", "-a", "v1", "-m", "v1")
    assert repo.tree("HEAD~1") == repo.tree(first) == repo.tree(first[:12])
    assert repo.tree("v1") == repo.tree("main") == repo.tree("HEAD")
    assert repo.tree("HEAD~1") != repo.tree("HEAD")


def test_merge_base_is_where_the_branch_left(root, repo):
    fork = commit(root, {"a.txt": "fork"})
    git(root, "checkout", "-b", "topic")
    commit(root, {"t.txt": "t"})
    git(root, "checkout", "main")
    commit(root, {"m.txt": "m"})
    git(root, "checkout", "topic")
    assert repo.merge_base(None) == fork
    assert repo.merge_base("main") == fork


def test_merge_base_prefers_the_remote(root, tmp_path):
    git(tmp_path, "clone", str(root), "clone")
    pushed = git(root, "rev-parse", "HEAD")
    commit(tmp_path / "clone", {"local.txt": "not pushed"})
    assert Repo(tmp_path / "clone", tmp_path / "scratch").merge_base(None) == pushed


def test_no_main_branch(root, repo):
    git(root, "branch", "-m", "main", "trunk")
    with pytest.raises(SelectError, match=r"no main branch \(origin/HEAD, origin/main, main.*--base REV"):
        repo.merge_base(None)
    with pytest.raises(SelectError, match=r"no main branch \(origin/dev, dev\).*--base REV"):
        repo.merge_base("dev")
    assert repo.merge_base("trunk") == git(root, "rev-parse", "HEAD")


def test_shallow_clone(root, tmp_path):
    commit(root, {"a.txt": "2"})
    git(root, "checkout", "-b", "topic", "HEAD~1")
    commit(root, {"t.txt": "t"})
    git(tmp_path, "clone", "--depth=1", "--no-single-branch", f"file://{root}", "shallow")
    repo = Repo(tmp_path / "shallow", tmp_path / "scratch")
    with pytest.raises(SelectError, match="no common commit.*git fetch --unshallow"):
        repo.merge_base("origin/main")
    with pytest.raises(SelectError, match="HEAD~1: not a revision.*git fetch --unshallow"):
        repo.tree("HEAD~1")
    assert repo.tree("HEAD") == repo.working_tree()


# Check-outs.


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ours/tree"


def test_check_out_keeps_times_of_unchanged_files(root, repo, folder):
    repo.check_out(repo.tree("HEAD"), folder)
    for file in ("a.txt", "lib/b.py"):
        os.utime(folder / file, (1, 1))
    repo.check_out(repo.tree("HEAD"), folder)  # (git learns the new times)
    kept = (folder / "lib/b.py").stat()
    commit(root, {"a.txt": "2"})
    repo.check_out(repo.tree("HEAD"), folder)
    assert (folder / "a.txt").read_text() == "2"
    now = (folder / "lib/b.py").stat()
    assert (now.st_mtime_ns, now.st_ino) == (kept.st_mtime_ns, kept.st_ino)


def test_check_out_removes_files_and_empty_folders(root, repo, folder):
    base = repo.tree("HEAD")
    commit(root, {"deep/er/x.txt": "x"})
    repo.check_out(repo.tree("HEAD"), folder)
    repo.check_out(base, folder)
    assert not (folder / "deep").exists()
    assert on_disk(folder).keys() == {".gitignore", "a.txt", "lib/b.py"}


def test_check_out_swaps_files_folders_and_links(root, repo, folder):
    states = []

    def state(name: str, make) -> None:
        shutil.rmtree(root / "x", ignore_errors=True)
        (root / "x").unlink(missing_ok=True)
        make()
        states.append((name, repo.working_tree(), on_disk(root)))

    state("file", lambda: write(root, {"x": "file"}))
    state("folder", lambda: write(root, {"x/inner/y": "y"}))
    state("link", lambda: (root / "x").symlink_to("a.txt"))
    state("folder link", lambda: (root / "x").symlink_to("lib"))
    state("nothing", lambda: None)
    for before in states:
        for after in states:
            repo.check_out(before[1], folder)
            repo.check_out(after[1], folder)
            assert on_disk(folder) == after[2], f"{before[0]} -> {after[0]}"


def test_check_out_sets_the_exec_bit(root, repo, folder):
    plain = repo.tree("HEAD")
    (root / "a.txt").chmod(0o755)
    repo.check_out(plain, folder)
    repo.check_out(repo.working_tree(), folder)
    assert (folder / "a.txt").stat().st_mode & stat.S_IXUSR
    repo.check_out(plain, folder)
    assert not (folder / "a.txt").stat().st_mode & stat.S_IXUSR


def lose_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_index(folder: Path) -> None:
    folder.with_name("tree.index").unlink()
    (folder / "stray.txt").write_text("of another tree")


def tamper(folder: Path) -> None:
    (folder / "a.txt").write_text("tampered")
    (folder / "lib/b.py").unlink()


def tamper_kind(folder: Path) -> None:
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()
    shutil.rmtree(folder / "lib")
    (folder / "lib").symlink_to("elsewhere")


@pytest.mark.parametrize("harm", [lose_folder, lose_index, tamper, tamper_kind])
def test_check_out_recovers(root, repo, folder, harm):
    base = repo.tree("HEAD")
    head = repo.tree(commit(root, {"c.txt": "c"}))
    for following in (head, base):
        repo.check_out(base, folder)
        harm(folder)
        repo.check_out(following, folder)
        expected = {".gitignore", "a.txt", "lib/b.py"} | ({"c.txt"} if following == head else set())
        assert on_disk(folder).keys() == expected
        assert (folder / "a.txt").read_text() == "a"


# Comparing.


def test_changed(root, repo):
    base = repo.tree("HEAD")
    (root / "lib/b.py").chmod(0o755)
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to("lib/b.py")
    write(root, {"new.txt": "a"})
    (root / ".gitignore").unlink()
    head = repo.working_tree()
    old, new = repo.files(base), repo.files(head)
    assert repo.changed(base, head) == {
        ".gitignore": (old[".gitignore"], None),
        "a.txt": (old["a.txt"], new["a.txt"]),
        "lib/b.py": (old["lib/b.py"], new["lib/b.py"]),
        "new.txt": (None, new["new.txt"]),
    }
    assert new["lib/b.py"] == Entry("100755", old["lib/b.py"].blob)
    assert new["a.txt"].mode == "120000"
    assert repo.changed(head, base) == {path: (b, a) for path, (a, b) in repo.changed(base, head).items()}


def test_rename_is_two_changes(root, repo):
    base = repo.tree("HEAD")
    (root / "a.txt").rename(root / "z.txt")
    changed = repo.changed(base, repo.working_tree())
    assert {path: (old is None, new is None) for path, (old, new) in changed.items()} == {
        "a.txt": (False, True),
        "z.txt": (True, False),
    }


def test_nothing_changed(repo):
    assert repo.changed(repo.tree("HEAD"), repo.working_tree()) == {}


def test_content_of_what_is_not_there(repo):
    assert repo.content(repo.tree("HEAD"), "nowhere.txt") is None


def test_lock_left_by_a_killed_git(root, repo, folder):
    repo.check_out(repo.tree("HEAD"), folder)
    folder.with_name("tree.index.lock").touch()
    repo.check_out(repo.tree("HEAD"), folder)


def test_killed_check_out_leaves_no_files_of_the_other_tree(root, repo, folder):
    base = repo.tree("HEAD")
    commit(root, {"aa.txt": "new", "zz.bin": "z", ".gitattributes": "*.bin filter=deadly\n"})
    repo.check_out(base, folder)
    git(root, "config", "filter.deadly.smudge", "kill -9 $PPID")
    with pytest.raises(SelectError):
        repo.check_out(repo.tree("HEAD"), folder)
    folder.with_name("tree.index.lock").unlink(missing_ok=True)
    repo.check_out(base, folder)
    assert on_disk(folder).keys() == {".gitignore", "a.txt", "lib/b.py"}


def test_damaged_index(root, repo, folder):
    repo.check_out(repo.tree("HEAD"), folder)
    folder.with_name("tree.index").write_bytes(b"DIRC")
    repo.check_out(repo.tree("HEAD"), folder)
    assert on_disk(folder).keys() == {".gitignore", "a.txt", "lib/b.py"}


def test_split_index_writes_nothing_into_the_users_repository(root, tmp_path):
    git(root, "config", "core.splitIndex", "true")
    git(root, "update-index", "--split-index")
    write(root, {"a.txt": "changed", "new.txt": "n"})
    before = everything_in(root)
    repo = Repo(root, tmp_path / "scratch")
    repo.check_out(repo.working_tree(), tmp_path / "tree")
    assert everything_in(root).keys() == before.keys()


def test_sparse_clone_is_checked_out_whole(root, repo, folder):
    git(root, "sparse-checkout", "set", "--no-cone", "/a.txt", "/.gitignore")
    repo.check_out(repo.tree("HEAD"), folder)
    assert on_disk(folder).keys() == {".gitignore", "a.txt", "lib/b.py"}


def test_hooks_of_the_user_do_not_run(root, repo, folder, tmp_path):
    hook = root / ".git/hooks/post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    write(root, {"new.txt": "n"})
    repo.check_out(repo.working_tree(), folder)
    assert not (tmp_path / "ran").exists()


def test_line_ends_do_not_depend_on_the_users_settings(root, repo, folder):
    git(root, "config", "core.autocrlf", "true")
    repo.check_out(repo.tree("HEAD"), folder)
    assert (folder / ".gitignore").read_bytes() == b"*.log\n/out/\n"


def test_tracked_link_with_a_name_like_bazels(root, repo):
    (root / "bazel-config").symlink_to("a.txt")
    commit(root)
    assert repo.working_tree() == repo.tree("HEAD")


def test_workspace_without_files(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init")
    commit(top, {"ws/a.txt": "a"})
    (top / "ws/a.txt").unlink()
    repo = Repo(top / "ws", tmp_path / "scratch")
    assert repo.files(repo.working_tree()) == {}


def test_revision_without_the_workspace(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init")
    commit(top, {"other/b.txt": "b"})
    commit(top, {"ws/a.txt": "a"})
    with pytest.raises(SelectError, match="HEAD~1 has no folder ws:"):
        Repo(top / "ws", tmp_path / "scratch").tree("HEAD~1")


def test_main_branch_that_only_the_remote_has(root, tmp_path):
    """As in a CI job's checkout of a pull request: detached, no local main."""
    git(tmp_path, "clone", str(root), "clone")
    git(tmp_path / "clone", "checkout", "--detach")
    git(tmp_path / "clone", "branch", "-D", "main")
    repo = Repo(tmp_path / "clone", tmp_path / "scratch")
    assert repo.merge_base("main") == git(root, "rev-parse", "HEAD")

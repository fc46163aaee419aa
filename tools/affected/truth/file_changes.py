"""Changes of files: contents, names, modes."""

from __future__ import annotations

from random import Random

from tools.affected.truth import workspace
from tools.affected.truth.edits import Workspace
from tools.affected.truth.kinds import ERROR, NONE, Expected, Kind, append_to_one, depend_on, just, theme, word

KINDS: dict[str, Kind] = {}
_contents = theme(KINDS, "contents of files")
_packages = theme(KINDS, "globs and packages")
_modes = theme(KINDS, "modes, links, directories")

_LIBRARIES = ("lib/base.py", "lib/util.py", "lib/text.py", "lib/words.py", "app/app.py", "app/app_default.py")
_TEST_SOURCES = (
    "root_test.sh",
    "lib/base_test.py",
    "app/app_test.py",
    "app/alt_py_test.py",
    "app/nested/nested_test.sh",
    "data/link_test.sh",
    "gen/joined_test.sh",
    "wheels/delta_test.py",
    "suites/first_test.sh",
)
_DATA = (
    "root.txt",
    "lib/text.json",
    "app/assets/one.txt",
    "app/assets/deep/four.txt",
    "app/nested/nested.txt",
    "data/a.txt",
    "data/shared.txt",
    "forms/stripes.txt",
    "rules/probe.txt",
    "suites/first.txt",
)


@_contents("library source")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, _LIBRARIES)


@_contents("library source, committed")
def _(ws: Workspace, rng: Random) -> Expected:
    expected = append_to_one(ws, rng, _LIBRARIES)
    ws.commit()
    return expected


@_contents("library source, staged and edited again")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_LIBRARIES)
    before = ws.read(path)
    ws.append(path, f"# {word(rng)}\n")
    ws.stage()
    ws.write(path, before + f"# {word(rng)}\n")
    return depend_on(ws.label(path))


@_contents("library source, staged and undone")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_LIBRARIES)
    before = ws.read(path)
    ws.append(path, f"# {word(rng)}\n")
    ws.stage()
    ws.write(path, before)
    return NONE


@_contents("test source")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_TEST_SOURCES)
    ws.append(path, f"# {word(rng)}\n")
    return just(ws.label(path).rpartition(".")[0])


@_contents("data file")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, _DATA)


@_contents("binary file")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.write("data/b.bin", f"\0{word(rng)}\x01")
    return depend_on("//data:b.bin")


@_contents("file of one package used in another")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("app/app.py", f"# {word(rng)}\n")
    return depend_on("//app:app.py")


@_contents("whitespace at the end of a source")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_LIBRARIES)
    ws.append(path, "\n")
    return depend_on(ws.label(path))


@_contents("file made empty")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_DATA)
    ws.write(path, "")
    return depend_on(ws.label(path))


@_contents("file touched")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_LIBRARIES + _DATA)
    ws.write(path, ws.read(path))
    return NONE


@_contents("library that no test uses")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("lib/spare.py", f"# {word(rng)}\n")
    return NONE


@_contents("README")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(rng.choice(["README.md", "notes/plan.txt", "third_party/modules/README.md"]), word(rng))
    return NONE


@_contents("new file that nothing names")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"{rng.choice(['', 'lib/', 'data/', 'app/'])}{word(rng)}.py", "")
    return NONE


@_contents("nothing")
def _(ws: Workspace, rng: Random) -> Expected:
    return NONE


@_contents("revert of a commit")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_LIBRARIES)
    before = ws.read(path)
    append_to_one(ws, rng, [path])
    ws.commit()
    ws.write(path, before)
    return NONE


@_contents("listed source deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(_LIBRARIES))
    return ERROR


@_contents("data of a test deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(["root.txt", "data/a.txt", "app/nested/nested.txt", "gen/tail.txt", "rules/probe.txt"]))
    return ERROR


@_contents("source that no test uses deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove("lib/spare.py")
    return NONE


@_contents("source renamed, with its label")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["lib/base.py", "lib/util.py", "app/app.py", "app/app_alt.py"])
    new = f"{path.removesuffix('.py')}_{word(rng)}.py"
    ws.move(path, new)
    package, _, name = path.rpartition("/")
    ws.replace(f"{package}/BUILD.bazel", f'"{name}"', f'"{new.rpartition("/")[2]}"')
    if path == "app/app.py":
        ws.replace("app/nested/BUILD.bazel", '"//app:app.py"', f'"//{package}:{new.rpartition("/")[2]}"')
    return depend_on(ws.label(new))


@_contents("data renamed, with its label")
def _(ws: Workspace, rng: Random) -> Expected:
    new = f"{word(rng)}.txt"
    ws.move("forms/stripes.txt", f"forms/{new}")
    ws.replace("forms/BUILD.bazel", "stripes.txt", new)
    return just("//forms:striped_test")


@_contents("contents of two files swapped")
def _(ws: Workspace, rng: Random) -> Expected:
    one, two = rng.sample(_DATA, 2)
    first, second = ws.read(one), ws.read(two)
    ws.write(one, second)
    ws.write(two, first)
    return depend_on(ws.label(one), ws.label(two))


@_packages("new file in a glob")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"app/assets/{rng.choice(['', 'deep/', 'new/'])}{word(rng)}.txt", "new\n")
    return just("//app:glob_test")


@_packages("new file in a glob, committed")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"app/assets/{word(rng)}.txt", "new\n")
    ws.commit()
    return just("//app:glob_test")


@_packages("new empty file in a glob")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"app/assets/{word(rng)}.txt", "")
    return just("//app:glob_test")


@_packages("new file in a glob with a space or an umlaut")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["{} with space.txt", "{}_ünïcödé.txt", "{}_日本.txt", "{}'quote.txt", "{}+=@.txt"])
    ws.create(f"app/assets/{name.format(word(rng))}", "new\n")
    return just("//app:glob_test")


@_packages("new file that a glob excludes")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"app/assets/skipped_{word(rng)}.txt", "new\n")
    return NONE


@_packages("new file beside a glob's pattern")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"app/assets/{word(rng)}.md", "new\n")
    return NONE


@_packages("file of a glob deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(["app/assets/one.txt", "app/assets/deep/four.txt"]))
    return just("//app:glob_test")


@_packages("file of a glob renamed")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.move("app/assets/one.txt", f"app/assets/{word(rng)}.txt")
    return just("//app:glob_test")


@_packages("glob excludes more")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("app/BUILD.bazel", "skipped_*", rng.choice(["*o*", "t*"]))
    return just("//app:glob_test")


@_packages("glob excludes more, of no file")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("app/BUILD.bazel", '["assets/skipped_*.txt"]', f'["assets/skipped_*.txt", "assets/{word(rng)}*"]')
    return NONE


@_packages("glob written out as a list")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//app:glob_test", "data", '["assets/one.txt", "assets/two.txt", "assets/deep/four.txt"]')
    return NONE


@_packages("new package takes files out of a glob")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("app/assets/deep/BUILD.bazel", rng.choice(["", 'exports_files(["four.txt"])\n']))
    return just("//app:glob_test")


@_packages("package split, files keep their paths")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("app/assets/deep/BUILD.bazel", 'exports_files(["four.txt"], visibility = ["//visibility:public"])\n')
    ws.replace("app/BUILD.bazel", "data = glob(", 'data = ["//app/assets/deep:four.txt"] + glob(')
    return NONE


@_packages("package split in a source directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("data/folder/deep/BUILD.bazel", "")
    return just("//data:folder_test")


@_packages("BUILD of a nested package deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove("app/nested/BUILD.bazel")
    return NONE


@_packages("BUILD deleted that others need")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(["lib/BUILD.bazel", "platforms/BUILD.bazel"]))
    return ERROR


@_packages("new package")
def _(ws: Workspace, rng: Random) -> Expected:
    name = word(rng)
    ws.create(f"{name}/BUILD.bazel", 'sh_test(\n    name = "new_test",\n    srcs = ["new_test.sh"],\n)\n')
    ws.create(f"{name}/new_test.sh", workspace.sh_test(name))
    return just(f"//{name}:new_test")


@_packages("package renamed")
def _(ws: Workspace, rng: Random) -> Expected:
    name = word(rng)
    ws.move("forms", name)
    tests = ("simple_test", "coloured_test", "striped_test", "shape_test")
    return just(*[f"//{name}:{test}" for test in tests])


@_packages("file BUILD beside BUILD.bazel")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"{rng.choice(['lib', 'app', 'data'])}/BUILD", "# Not read.\n")
    return NONE


@_packages(".bazelignore hides a package")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelignore", rng.choice(["app/nested\n", "forms\n"]))
    return NONE


@_packages(".bazelignore of nothing")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelignore", rng.choice(["notes\n", f"{word(rng)}\n"]))
    return NONE


@_packages(".gitignore")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".gitignore", f"/{word(rng)}\n")
    return NONE


@_modes("exec bit", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["data/shared.txt", "data/a.txt", "lib/base.py", "lib/text.json", "data/script.sh"])
    mode = (ws.root / path).stat().st_mode if (ws.root / path).exists() else 0
    ws.read(path)
    (ws.root / path).chmod(mode ^ 0o111)
    return depend_on(ws.label(path))


@_modes("other mode bits")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["data/shared.txt", "lib/base.py"])
    ws.read(path)
    (ws.root / path).chmod(0o600)
    return NONE


@_modes("link to another file")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/link.txt", "targets/second.txt")
    return just("//data:link_test")


@_modes("link to a file of the same content")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/link.txt", "targets/same.txt")
    return NONE


@_modes("link written otherwise")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/link.txt", rng.choice(["./targets/first.txt", "../data/targets/first.txt"]))
    return NONE


@_modes("link becomes a file of the same content")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove("data/link.txt")
    ws.write("data/link.txt", "first\n")
    return NONE


@_modes("file becomes a link to the same content")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("notes/moved.txt", ws.read("data/shared.txt"))
    ws.link("data/shared.txt", "../notes/moved.txt")
    return NONE


@_modes("content behind a link")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("data/targets/first.txt", word(rng))
    return just("//data:link_test")


@_modes("content behind a chain of links")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("notes/end.txt", word(rng))
    return just("//data:chain_test")


@_modes("link in the middle of a chain")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/targets/hop.txt", rng.choice(["first.txt", "../../notes/plan.txt"]))
    return just("//data:chain_test")


@_modes("link that dangles")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/link.txt", f"targets/{word(rng)}")
    return ERROR


@_modes("file in a source directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["data/folder/x.txt", "data/folder/deep/y.txt"])
    ws.append(path, word(rng))
    return just("//data:folder_test")


@_modes("new file in a source directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create(f"data/folder/{rng.choice(['', 'deep/', 'new/'])}{word(rng)}", word(rng))
    return just("//data:folder_test")


@_modes("file in a source directory deleted", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(["data/folder/x.txt", "data/folder/deep/y.txt"]))
    return just("//data:folder_test")


@_modes("content behind a link in a source directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("notes/outside.txt", word(rng))
    return just("//data:folder_test")


@_modes("content of a linked source directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["notes/linked/x.txt", "notes/linked/deep/y.txt"])
    ws.append(path, word(rng))
    return just("//data:linked_test")


@_modes("link to another directory", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.link("data/linked", "folder")
    return just("//data:linked_test")

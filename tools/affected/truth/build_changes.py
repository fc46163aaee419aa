"""Changes of BUILD files: their text, targets, attributes of tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

from tools.affected.truth import workspace
from tools.affected.truth.edits import Workspace
from tools.affected.truth.kinds import ERROR, NONE, Expected, Kind, depend_on, just, theme, word

KINDS: dict[str, Kind] = {}
_PROBES = ("//rules:probe_test", "//rules:other_probe_test", "//rules:fast_probe_test", "//rules:alt_probe_test")
_text = theme(KINDS, "text of BUILD files")
_targets = theme(KINDS, "targets")
_attributes = theme(KINDS, "attributes of tests")

_BUILDS = (
    "BUILD.bazel",
    "lib/BUILD.bazel",
    "app/BUILD.bazel",
    "data/BUILD.bazel",
    "gen/BUILD.bazel",
    "forms/BUILD.bazel",
    "rules/BUILD.bazel",
    "platforms/BUILD.bazel",
    "python/BUILD.bazel",
    "wheels/BUILD.bazel",
)


@_text("comment in a BUILD file")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_BUILDS)
    lines = ws.read(path).split("\n")
    lines.insert(rng.randrange(len(lines)), f"# {word(rng)}")
    ws.write(path, "\n".join(lines))
    return NONE


@_text("formatting of a BUILD file")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_BUILDS)
    text = ws.read(path)
    ws.write(path, rng.choice([text.replace("    ", "  "), text.replace("\n\n", "\n\n\n"), text.replace(" = ", "=")]))
    return NONE


@_text("order of statements in a BUILD file")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["app/BUILD.bazel", "lib/BUILD.bazel", "data/BUILD.bazel", "gen/BUILD.bazel"])
    head, *blocks = ws.read(path).strip("\n").split("\n\n")
    if path == "gen/BUILD.bazel":
        blocks.append(head)
        head = "# Reordered."
    rng.shuffle(blocks)
    ws.write(path, "\n\n".join([head, *blocks]) + "\n")
    return NONE


@_text("order of attributes")
def _(ws: Workspace, rng: Random) -> Expected:
    value = ws.get("//lib:text", "srcs")
    ws.set("//lib:text", "srcs", None)
    ws.replace("lib/BUILD.bazel", '    imports = ["."],\n', f'    imports = ["."],\n    srcs = {value},\n')
    return NONE


@_text("order of deps, srcs or data")
def _(ws: Workspace, rng: Random) -> Expected:
    label, attribute, one, two = rng.choice(
        [
            ("//lib:text", "deps", ":util", "@hub//gamma"),
            ("//lib:text", "srcs", "text.py", "words.py"),
            ("//data:files", "srcs", "a.txt", "b.bin"),
            ("//data:script_test", "data", "script.sh", "shared.txt"),
        ]
    )
    ws.get(label, attribute)
    ws.set(label, attribute, f'["{two}", "{one}"]')
    return NONE


@_text("label spelled otherwise")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:util", "deps", rng.choice(['["//lib:base"]', '["base"]', '[":" + "base"]', '["@//lib:base"]']))
    return NONE


@_text("target that no test uses")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.add("lib", f'py_library(\n    name = "{word(rng)}",\n    srcs = ["spare.py"],\n)\n')
    return NONE


@_text("unused target deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.delete(rng.choice(["//lib:spare", "//data:other_files", "//rules:spare_toolchain"]))
    return NONE


@_text("visibility, still legal")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//lib:base", "//lib:text", "//app:app"]), "visibility", '["//:__subpackages__"]')
    return NONE


@_text("visibility, not legal")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:text", "visibility", '["//visibility:private"]')
    return ERROR


@_text("default visibility of a package, still legal")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["lib/BUILD.bazel", "app/BUILD.bazel", "data/BUILD.bazel"])
    ws.replace(path, '(default_visibility = ["//visibility:public"])', '(default_visibility = ["//:__subpackages__"])')
    return NONE


@_text("features of a package")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["lib/BUILD.bazel", "app/BUILD.bazel", "data/BUILD.bazel"])
    ws.replace(path, "package(", f'package(features = ["{word(rng)}"], ')
    return NONE


@_text("features of a package whose rule reads them")
def _(ws: Workspace, rng: Random) -> Expected:
    first = 'exports_files(["probe.tpl"])'
    ws.replace("rules/BUILD.bazel", first, f'package(features = ["{word(rng)}"])\n\n{first}')
    return just(*_PROBES)


@_text("features of all packages, read by a rule")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("REPO.bazel", f'repo(features = ["{word(rng)}"])\n')
    return just(*_PROBES)


@_text("deprecation")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//lib:base", "//lib:base_test", "//data:files"]), "deprecation", f'"{word(rng)}"')
    return NONE


@_text("testonly")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//gen:generated", "//data:other_files", "//lib:base_test"]), "testonly", "True")
    return NONE


@_text("exports_files")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.add("lib", 'exports_files(["spare.py"])\n')
    return NONE


@_text("REPO.bazel")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("REPO.bazel", 'repo(default_deprecation = "old")\n')
    return NONE


@_text("syntax error in a BUILD file")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(rng.choice(_BUILDS), rng.choice(["sh_test(\n", f"{word(rng)}()\n", 'fail("no")\n']))
    return ERROR


@_text("dependency that is not there")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//lib:util", "//app:app"]), "deps", f'["//lib:{word(rng)}"]')
    return ERROR


@_text("dependency cycle")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:base", "deps", '[":util"]')
    return ERROR


@_targets("library renamed, its files kept")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("lib/BUILD.bazel", 'name = "util"', 'name = "utility"')
    ws.replace("lib/BUILD.bazel", '[":util"]', '[":utility"]')
    ws.replace("lib/BUILD.bazel", '        ":util",', '        ":utility",')
    return NONE


@_targets("dep added")
def _(ws: Workspace, rng: Random) -> Expected:
    label = rng.choice(["//lib:base", "//lib:base_test", "//app:alt_py_test"])
    old = ws.get(label, "deps")
    ws.set(label, "deps", f'{old} + ["//lib:spare"]' if old else '[":spare"]')
    return depend_on(label)


@_targets("dep added that comes along anyway")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:util_test", "deps", '[":util", ":base"]')
    return NONE


@_targets("dep removed")
def _(ws: Workspace, rng: Random) -> Expected:
    label, rest = rng.choice([("//lib:text", '[":util"]'), ("//lib:util", "[]"), ("//wheels:delta_test", "[]")])
    ws.set(label, "deps", rest)
    return depend_on(label)


@_targets("source moves to another target of the same closure")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:base", "srcs", '["base.py", "util.py"]')
    ws.set("//lib:util", "srcs", "[]")
    return just("//lib:base_test")


@_targets("library inlined into its only user")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:generated_test", "deps", "[]")
    ws.set("//gen:generated_test", "srcs", '["generated_test.py", ":rendered"]')
    return NONE


@_targets("imports of a library")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//lib:base", "imports", '["."]')
    return depend_on("//lib:base")


@_targets("imports of a library, new path")
def _(ws: Workspace, rng: Random) -> Expected:
    label = rng.choice(["//lib:base", "//app:app"])
    ws.set(label, "imports", f'["{word(rng)}"]')
    return depend_on(label)


@_targets("filegroup gets a file")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//data:files", "srcs", '["a.txt", "b.bin", "c.txt"]')
    return depend_on("//data:files")


@_targets("filegroup unfolded")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//data:alias_test", "data", '["a.txt", "b.bin"]')
    return NONE


@_targets("alias to another target")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//data:current", "actual", '":other_files"')
    return depend_on("//data:current")


@_targets("alias in between")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.add("lib", 'alias(\n    name = "base_alias",\n    actual = ":base",\n)\n')
    ws.set("//lib:util", "deps", '[":base_alias"]')
    return NONE


@_targets("new test")
def _(ws: Workspace, rng: Random) -> Expected:
    name = f"{word(rng)}_test"
    package = rng.choice(["lib", "suites", "forms"])
    ws.add(package, f'sh_test(\n    name = "{name}",\n    srcs = ["{name}.sh"],\n)\n')
    ws.create(f"{package}/{name}.sh", workspace.sh_test(name))
    return just(f"//{package}:{name}")


@_targets("test deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.delete(rng.choice(ws.tests("sh_test", "py_test", "probe_test")))
    return NONE


@_targets("test renamed")
def _(ws: Workspace, rng: Random) -> Expected:
    name = f"{word(rng)}_test"
    ws.replace("suites/BUILD.bazel", 'name = "second_test"', f'name = "{name}"')
    return just(f"//suites:{name}")


@_targets("test becomes manual")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(ws.tests("sh_test", "py_test")), "tags", '["manual"]')
    return NONE


@_targets("test stops being manual")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//suites:manual_test", "tags", "[]")
    return just("//suites:manual_test")


@_targets("manual or incompatible test edited")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(rng.choice(["suites/manual_test.sh", "suites/incompatible_test.sh"]), "# Edited\n")
    return NONE


@_targets("test becomes incompatible")
def _(ws: Workspace, rng: Random) -> Expected:
    tests = [test for test in ws.tests("sh_test", "py_test") if "alt" not in test]
    ws.set(rng.choice(tests), "target_compatible_with", '["@platforms//:incompatible"]')
    return NONE


@_targets("test stops being incompatible")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//suites:incompatible_test", "target_compatible_with", "[]")
    return just("//suites:incompatible_test")


@_targets("test moves to another configuration")
def _(ws: Workspace, rng: Random) -> Expected:
    label = rng.choice(["//app:flag_test", "//app:app_test", "//lib:base_test"])
    ws.set(label, "target_compatible_with", '["//platforms:accelerated"]')
    return just(label)


@_targets("test moves to the first configuration")
def _(ws: Workspace, rng: Random) -> Expected:
    label = rng.choice(["//app:alt_sh_test", "//app:alt_py_test", "//rules:alt_probe_test"])
    ws.set(label, "target_compatible_with", "[]")
    return just(label)


@_targets("test_suite")
def _(ws: Workspace, rng: Random) -> Expected:
    change = rng.choice(["edit", "add", "delete"])
    if change == "edit":
        ws.set("//suites:suite", "tests", '[":first_test", ":second_test"]')
    elif change == "add":
        ws.add("suites", 'test_suite(name = "all_of_them")\n')
    else:
        ws.delete("//suites:suite")
    return NONE


def _with_tags(ws: Workspace, rng: Random, tags: Sequence[str]) -> str:
    test = rng.choice(ws.tests("sh_test", "py_test", "probe_test"))
    old = ws.get(test, "tags") or "[]"
    ws.set(test, "tags", f"{old} + {[rng.choice(tags)]!r}".replace("'", '"'))
    return test


@_attributes("descriptive tag", truth="spawn")
def _(ws: Workspace, rng: Random) -> Expected:
    return dataclasses.replace(NONE, touched=(_with_tags(ws, rng, ["nightly", "slow", "owner=someone"]),))


@_attributes("descriptive tag dropped", truth="spawn")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(["//lib:base_test", "//lib:util_test", "//app:app_test", "//app:tuned_test"])
    ws.get(test, "tags")
    ws.set(test, "tags", None)
    return dataclasses.replace(NONE, touched=(test,))


@_attributes("tag of a library")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//lib:base", "//lib:text", "//data:files"]), "tags", f'["{word(rng)}"]')
    return NONE


@_attributes("execution tag")
def _(ws: Workspace, rng: Random) -> Expected:
    tags = ["cpu:2", "requires-network", "block-network", "no-sandbox", "local", "no-remote-exec", "resources:gpu:0"]
    return just(_with_tags(ws, rng, tags))


@_attributes("external tag")
def _(ws: Workspace, rng: Random) -> Expected:
    return just(_with_tags(ws, rng, ["external"]))


@_attributes("exclusive tag")
def _(ws: Workspace, rng: Random) -> Expected:
    return just(_with_tags(ws, rng, ["exclusive"]))


@_attributes("exec_properties")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test"))
    ws.set(test, "exec_properties", f'{{"{rng.choice(["pool", "test.pool"])}": "{word(rng)}"}}')
    return just(test)


@_attributes("size")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test", "probe_test"))
    ws.set(test, "size", '"large"')
    return just(test)


@_attributes("size written out")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(["//lib:base_test", "//data:link_test", "//root_test"][:2]), "size", '"medium"')
    return NONE


@_attributes("timeout")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test", "probe_test"))
    ws.set(test, "timeout", '"long"')
    return just(test)


@_attributes("env")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test"))
    ws.set(test, "env", f'{{"SETTING": "{word(rng)}"}}')
    return just(test)


@_attributes("env_inherit")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test"))
    ws.set(test, "env_inherit", '["TRUTH_INHERITED"]')
    return just(test)


@_attributes("args")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice([test for test in ws.tests("sh_test", "py_test") if test != "//app:large_test"])
    ws.set(test, "args", f'["{word(rng)}"]')
    return just(test)


@_attributes("order of args")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.get("//app:tuned_test", "args")
    ws.set("//app:tuned_test", "args", '["second", "first"]')
    return just("//app:tuned_test")


@_attributes("shard_count")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test"))
    ws.set(test, "shard_count", "3")
    return just(test)


@_attributes("flaky")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set(rng.choice(ws.tests("sh_test", "py_test", "probe_test")), "flaky", "True")
    return NONE


@_attributes("local")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("sh_test", "py_test"))
    ws.set(test, "local", "True")
    return just(test)


@_attributes("place of a file in the runfiles")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//rules:probe_test", "place", f'"{word(rng)}"')
    return just("//rules:probe_test")


@_attributes("data added")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(ws.tests("py_test"))
    ws.set(test, "data", '["//data:shared.txt"]')
    return just(test)


@_attributes("main of a test")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.create("lib/other.py", "")
    ws.set("//lib:base_test", "srcs", '["base_test.py", "other.py"]')
    ws.set("//lib:base_test", "main", f'"{rng.choice(["other.py", "base_test.py"])}"')
    return just("//lib:base_test")

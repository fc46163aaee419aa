"""Changes of how targets are made: macros, rules, toolchains, wheels, generators."""

from __future__ import annotations

from random import Random

from tools.affected.truth import workspace
from tools.affected.truth.edits import Workspace
from tools.affected.truth.kinds import ANY, ERROR, NONE, Expected, Kind, append_to_one, depend_on, just, theme, word

KINDS: dict[str, Kind] = {}
_starlark = theme(KINDS, "Starlark")
_toolchains = theme(KINDS, "toolchains")
_wheels = theme(KINDS, "modules and wheels")
_generated = theme(KINDS, "generated files")


@_starlark("macro edit that changes some callers")
def _(ws: Workspace, rng: Random) -> Expected:
    style = rng.choice(["simple", "striped"])
    addition = f'    if style == "{style}":\n        args.append("{word(rng)}")\n    plain_test('
    ws.replace("forms/macros.bzl", "    plain_test(", addition)
    return just(f"//forms:{style}_test")


@_starlark("macro edit that changes no caller")
def _(ws: Workspace, rng: Random) -> Expected:
    addition = f'    if style == "{word(rng)}":\n        args.append("--more")\n    plain_test('
    ws.replace("forms/macros.bzl", "    plain_test(", addition)
    return NONE


@_starlark("macro edit that changes all callers")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("forms/macros.bzl", '"--style="', f'"--{word(rng)}="')
    return just("//forms:simple_test", "//forms:coloured_test", "//forms:striped_test")


@_starlark("default of a macro")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("forms/macros.bzl", 'style = "simple"', f'style = "{word(rng)}"')
    return just("//forms:simple_test")


@_starlark("inner macro")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace(
        "forms/inner.bzl", "        **kwargs", f'        exec_properties = {{"pool": "{word(rng)}"}},\n        **kwargs'
    )
    return just("//forms:simple_test", "//forms:coloured_test", "//forms:striped_test", "//forms:shape_test")


@_starlark("macro written out at its caller")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.delete("//forms:simple_test")
    text = 'sh_test(\n    name = "simple_test",\n    srcs = ["simple_test.sh"],\n    args = ["--style=simple"],\n)\n'
    ws.add("forms", text)
    return NONE


@_starlark("macro adds a test per call")
def _(ws: Workspace, rng: Random) -> Expected:
    addition = '    plain_test(\n        name = name.replace("_test", "_more_test"),\n    )\n    plain_test('
    ws.replace("forms/macros.bzl", "    plain_test(", addition)
    names = [f"{name}_more_test" for name in ("simple", "coloured", "striped")]
    for name in names:
        ws.create(f"forms/{name}.sh", workspace.sh_test(name))
    return just(*[f"//forms:{name}" for name in names])


@_starlark("comment or docstring in a .bzl file")
def _(ws: Workspace, rng: Random) -> Expected:
    files = ["forms/macros.bzl", "forms/inner.bzl", "forms/constants.bzl", "rules/rules.bzl", "rules/impl.bzl"]
    files += ["rules/toolchain.bzl", "platforms/flag.bzl", "python/host_python.bzl", "wheels/extension.bzl"]
    files += ["wheels/wheel.bzl", "wheels/hub.bzl"]
    path = rng.choice(files)
    text = ws.read(path)
    ws.write(path, rng.choice([f"{text}# {word(rng)}\n", text.replace('"""\n', f' {word(rng)}"""\n', 1)]))
    return NONE


@_starlark("constant in a .bzl file")
def _(ws: Workspace, rng: Random) -> Expected:
    old, test = rng.choice([("red", "coloured_test"), ("round", "shape_test")])
    ws.replace("forms/constants.bzl", f'"{old}"', f'"{word(rng)}"')
    return just(f"//forms:{test}")


@_starlark("constant in a .bzl file, computed otherwise")
def _(ws: Workspace, rng: Random) -> Expected:
    old, new = rng.choice([('"red"', '"r" + "ed"'), ('"round"', '"".join(["round"])')])
    ws.replace("forms/constants.bzl", old, new)
    return NONE


@_starlark("constant that nothing uses")
def _(ws: Workspace, rng: Random) -> Expected:
    line = f'{word(rng).upper()} = "new"\n'
    text = ws.read("forms/constants.bzl")
    ws.write("forms/constants.bzl", rng.choice([text + line, text.replace('"unused"', f'"{word(rng)}"')]))
    return NONE


@_starlark("order of load statements")
def _(ws: Workspace, rng: Random) -> Expected:
    one, two = 'load(":constants.bzl", "SHAPE")\n', 'load(":inner.bzl", "plain_test")\n'
    text = ws.read("forms/BUILD.bazel")
    ws.write("forms/BUILD.bazel", one + two + text.replace(one, "").replace(two, ""))
    return NONE


@_starlark(".bzl file renamed")
def _(ws: Workspace, rng: Random) -> Expected:
    name = f"{word(rng)}.bzl"
    old = rng.choice(["constants.bzl", "inner.bzl"])
    for path in ("forms/BUILD.bazel", "forms/macros.bzl"):
        ws.replace(path, f'load(":{old}"', f'load(":{name}"')
    ws.move(f"forms/{old}", f"forms/{name}")
    return NONE


@_starlark("error in a .bzl file")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["forms/macros.bzl", "rules/impl.bzl", "wheels/extension.bzl"])
    ws.append(path, rng.choice(["def broken(:\n", f"X = {word(rng)}\n"]))
    return ERROR


@_starlark("implementation of a rule")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("rules/impl.bzl", "toolchain.flavour,", f'toolchain.flavour + " {word(rng)}",')
    return depend_on("//rules:probe.tpl")


@_starlark("implementation of a rule, of some targets")
def _(ws: Workspace, rng: Random) -> Expected:
    new = f'ctx.attr.greeting.replace("hello", "{word(rng)}")'
    ws.replace("rules/impl.bzl", "ctx.attr.greeting", new)
    return just("//rules:other_probe_test")


@_starlark("implementation of a rule, same actions")
def _(ws: Workspace, rng: Random) -> Expected:
    old, new = rng.choice(
        [
            ("toolchain.flavour,", "str(toolchain.flavour),"),
            ("    script = ", "    unused = ctx.label.name\n    script = "),
            ("ctx.files.data + [toolchain.payload]", "[toolchain.payload] + ctx.files.data"),
        ]
    )
    ws.replace("rules/impl.bzl", old, new)
    return NONE


@_starlark("rule gets an attribute")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("rules/rules.bzl", '    "greeting"', f'    "{word(rng)}": attr.string(default = "x"),\n    "greeting"')
    return NONE


@_starlark("default of a rule's attribute")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("rules/rules.bzl", '"good day"', f'"{word(rng)}"')
    return just("//rules:probe_test", "//rules:fast_probe_test", "//rules:alt_probe_test")


@_starlark("template of a rule")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("rules/probe.tpl", f"# {word(rng)}\n")
    return depend_on("//rules:probe.tpl")


@_starlark("transition")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("rules/rules.bzl", '{"//platforms:fast": True}', '{"//platforms:fast": False}')
    return just("//rules:fast_probe_test")


# No attribute names toolchains, so rdeps does not see who uses them.
_PROBE_TESTS = {
    "default": ("//rules:probe_test", "//rules:other_probe_test", "//rules:fast_probe_test"),
    "alt": ("//rules:alt_probe_test",),
}


@_toolchains("attribute of a toolchain")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["default", "alt"])
    ws.set(f"//rules:{name}_probe", "flavour", f'"{word(rng)}"')
    return just(*_PROBE_TESTS[name])


@_toolchains("file of a toolchain")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["default", "alt"])
    ws.append(f"rules/{name}.payload", word(rng))
    return just(*_PROBE_TESTS[name])


@_toolchains("toolchain that nothing takes")
def _(ws: Workspace, rng: Random) -> Expected:
    if rng.random() < 0.5:
        ws.append("rules/spare.payload", word(rng))
    else:
        ws.set("//rules:spare_probe", "flavour", f'"{word(rng)}"')
    return NONE


@_toolchains("toolchain registered that comes first")
def _(ws: Workspace, rng: Random) -> Expected:
    first = '    "//rules:alt_toolchain",\n'
    ws.replace("MODULE.bazel", first, '    "//rules:spare_toolchain",\n' + first)
    return depend_on("//rules:probe.tpl")


@_toolchains("toolchain registered that comes last")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("MODULE.bazel", 'register_toolchains("//rules:spare_toolchain")\n')
    return NONE


@_toolchains("toolchain in .bazelrc")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build --extra_toolchains=//rules:spare_toolchain\n")
    return depend_on("//rules:probe.tpl")


@_toolchains("interpreter of a configuration")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["default", "alt"])
    ws.write(f"python/{name}.fingerprint.txt", f"3.11.{rng.randrange(2, 1000)}\n")
    alt = {"//app:alt_py_test", "//wheels:alt_delta_test"}
    return just(*(alt if name == "alt" else set(ws.tests("py_test")) - alt))


@_toolchains("interpreter's options")
def _(ws: Workspace, rng: Random) -> Expected:
    old = '        python_version = "PY3",\n'
    ws.replace("python/BUILD.bazel", old, f'{old}        stub_shebang = "#!/usr/bin/env python3\\n# {word(rng)}",\n')
    return just(*ws.tests("py_test"), "//gen:render_test")


@_wheels("comment or order in MODULE.bazel")
def _(ws: Workspace, rng: Random) -> Expected:
    text = ws.read("MODULE.bazel")
    moved = 'host_python(name = "host_python")\n'
    ws.write("MODULE.bazel", rng.choice([f"{text}# {word(rng)}\n", text.replace(moved, "") + moved]))
    return NONE


@_wheels("version of the module")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("MODULE.bazel", 'module(name = "truth")', f'module(name = "truth", version = "{rng.randrange(99)}.0")')
    return NONE


@_wheels("error in MODULE.bazel")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("MODULE.bazel", rng.choice([f"{word(rng)}()\n", 'bazel_dep(name = "not_there", version = "1.0")\n']))
    return ERROR


@_wheels("repository that no test uses")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("MODULE.bazel", f'host_python(name = "{word(rng)}")\n')
    return NONE


@_wheels("file of a module in the workspace")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("third_party/modules/extra/extra.txt", word(rng))
    return just("//modules:extra_test")


@_wheels("target of a module in the workspace")
def _(ws: Workspace, rng: Random) -> Expected:
    name = f"{word(rng)}.txt"
    ws.create(f"third_party/modules/extra/{name}", "more\n")
    ws.replace("third_party/modules/extra/BUILD.bazel", '["extra.txt"]', f'["extra.txt", "{name}"]')
    return just("//modules:extra_test")


@_wheels("comment in a module in the workspace")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(f"third_party/modules/extra/{rng.choice(['BUILD', 'MODULE'])}.bazel", f"# {word(rng)}\n")
    return NONE


def _bump(ws: Workspace, rng: Random, lock: str, name: str) -> None:
    line = next((line for line in ws.read(f"wheels/{lock}.txt").split("\n") if line.startswith(name + "==")), "")
    ws.replace(f"wheels/{lock}.txt", line or name + "==", f"{name}=={rng.randrange(2, 99)}.0 --hash=sha256:{word(rng)}")


@_wheels("wheel bumped")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["alpha", "delta"])
    _bump(ws, rng, "default", name)
    return just(f"//wheels:{name}_test")


@_wheels("wheel of a closure bumped")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["beta", "gamma"])
    _bump(ws, rng, "default", name)
    return depend_on(f"@hub_default_{name}//:pkg")


@_wheels("wheel bumped in alt's lock")
def _(ws: Workspace, rng: Random) -> Expected:
    name = rng.choice(["delta", "gamma"])
    _bump(ws, rng, "alt", name)
    return depend_on(f"@hub_alt_{name}//:pkg")


@_wheels("wheel bumped that only another configuration's tests use")
def _(ws: Workspace, rng: Random) -> Expected:
    _bump(ws, rng, "alt", "alpha")
    return NONE


@_wheels("wheel bumped that no test uses")
def _(ws: Workspace, rng: Random) -> Expected:
    _bump(ws, rng, "default", "epsilon")
    return NONE


@_wheels("hash of a wheel")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("wheels/default.txt", "sha256:d1", f"sha256:{word(rng)}")
    return just("//wheels:delta_test")


@_wheels("lock reordered, commented or spaced")
def _(ws: Workspace, rng: Random) -> Expected:
    lock = rng.choice(["default", "alt"])
    text = ws.read(f"wheels/{lock}.txt")
    rows = text.replace("\n    #", "\t").rstrip("\n").split("\n")
    moved = "\n".join([*rows[:1], *rows[:0:-1]]).replace("\t", "\n    #") + "\n"
    spaced = text.replace(" --hash", "   --hash").replace("    # via", "  #   via") + "\n\n"
    ws.write(f"wheels/{lock}.txt", rng.choice([moved, spaced, f"# {word(rng)}\n{text}"]))
    return NONE


@_wheels("wheel added to the lock")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("wheels/default.txt", f"{word(rng)}==1.0 --hash=sha256:00\n")
    return NONE


@_wheels("wheel removed from the lock")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("wheels/default.txt", "epsilon==1.0 --hash=sha256:e1\n", "")
    return NONE


@_wheels("wheel removed from the lock that tests use")
def _(ws: Workspace, rng: Random) -> Expected:
    for lock in ("default", "alt"):
        text = ws.read(f"wheels/{lock}.txt")
        ws.write(f"wheels/{lock}.txt", "".join(line for line in text.splitlines(True) if not line.startswith("delta")))
    return ERROR


@_wheels("wheel depends on another")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("wheels/default.txt", "sha256:e1\n", "sha256:e1\n    # via delta\n")
    return just("//wheels:delta_test")


@_wheels("lock that cannot be read")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("wheels/default.txt", f"{word(rng)}>=1.0\n")
    return ERROR


@_wheels("how wheels are installed")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("wheels/wheel.bzl", 'rctx.attr.requirement + "\\n")', f'rctx.attr.requirement + "\\n# {word(rng)}\\n")')
    return ANY


@_wheels("how wheels are installed, same files")
def _(ws: Workspace, rng: Random) -> Expected:
    old, new = '    name = wheel.partition("==")[0]\n', '    name = wheel.split("==")[0]\n'
    ws.replace("wheels/wheel.bzl", old, new)
    return NONE


@_wheels("tag of a wheel")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("wheels/wheel.bzl", "wheel={wheel}", f"{word(rng)}={{wheel}}")
    return NONE


@_generated("source of a genrule")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, ["gen/stamped.in", "gen/rendered.in", "gen/tail.txt"])


@_generated("tool of a genrule")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, ["gen/stamp.sh", "gen/render.py", "gen/render_lib.py"])


@_generated("command of a genrule")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:joined", "cmd", f'"(cat $(SRCS); echo {word(rng)}) > $@"')
    return depend_on("//gen:joined")


@_generated("output of a genrule renamed")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:joined", "outs", f'["{word(rng)}.txt"]')
    return depend_on("//gen:joined")


@_generated("genrule that no test uses")
def _(ws: Workspace, rng: Random) -> Expected:
    name = word(rng)
    ws.add("gen", f'genrule(\n    name = "{name}",\n    outs = ["{name}.txt"],\n    cmd = "touch $@",\n)\n')
    return NONE


@_generated("source of a genrule, same output")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.write("gen/counted.in", f"{word(rng)}\n{word(rng)}\n")
    return NONE


@_generated("message of a genrule")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:joined", "message", f'"{word(rng)}"')
    return NONE


@_generated("generated file checked in")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.delete("//gen:counted")
    ws.create("gen/counted.txt", "2\n")
    ws.set("//gen:doubled", "srcs", '["counted.txt"]')
    ws.set("//gen:counted_test", "data", '["counted.txt"]')
    return just("//gen:counted_test")


@_generated("command of a genrule, same output")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:counted", "cmd", f'"echo {word(rng)} > /dev/null; $(execpath :count) $< > $@"')
    return NONE


@_generated("tool of a genrule, same output")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("gen/count.sh", f"# {word(rng)}\n")
    return NONE


@_generated("source of a genrule's source")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("gen/counted.in", "more\n" * rng.randrange(1, 9))
    return depend_on("//gen:counted.in")


@_generated("genrule that fails", truth="broken", alone=True)
def _(ws: Workspace, rng: Random) -> Expected:
    if rng.random() < 0.5:
        ws.set("//gen:counted", "cmd", '"false"')
    else:
        ws.write("gen/count.sh", f"#!/bin/sh\nexit {rng.randrange(1, 9)}\n")
    return depend_on("//gen:counted")


@_generated("source of a generated folder")
def _(ws: Workspace, rng: Random) -> Expected:
    if rng.random() < 0.5:
        ws.append("gen/counts.in", "more\n")
    else:
        ws.create(f"gen/{word(rng)}.in", "more\n")
        ws.set("//gen:counts", "srcs", 'glob(["*.in"], exclude = ["stamped.in"])')
    return just("//gen:counts_test")


@_generated("source of a generated folder, same output")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.write("gen/counts.in", f"{word(rng)}\n{word(rng)}\n")
    return NONE


@_generated("program in the data of a test")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//gen:render", "args", f'["{word(rng)}"]')
    return NONE


@_generated("label in what is stamped")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", f"build --embed_label={word(rng)}\n")
    return just("//gen:labelled_test")

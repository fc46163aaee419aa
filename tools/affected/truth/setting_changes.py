"""Changes of what all targets are configured by: conditions, platforms, flags, the version of Bazel."""

from __future__ import annotations

from random import Random

from tools.affected.truth.edits import Workspace
from tools.affected.truth.kinds import ERROR, NONE, Expected, Kind, depend_on, everything, just, theme, word

KINDS: dict[str, Kind] = {}
_configurations = theme(KINDS, "select() and platforms")
_flags = theme(KINDS, "flags")
_blind = theme(KINDS, "a base that says nothing")


@_configurations("select branch that is taken")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["app/app_default.py", "app/slow.txt"])
    ws.append(path, f"# {word(rng)}\n")
    return depend_on(ws.label(path))


@_configurations("select branch that only alt takes")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["app/app_alt.py", "app/fast.txt"])
    ws.append(path, f"# {word(rng)}\n")
    return depend_on(ws.label(path))


@_configurations("select branch that a transition takes")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("rules/fast.txt", word(rng))
    return just("//rules:fast_probe_test")


@_configurations("select branch that nothing takes")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("rules/slow.txt", word(rng))
    return NONE


@_configurations("select gets a branch that is not taken")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace(
        "app/BUILD.bazel",
        '        "//platforms:large"',
        '        "//platforms:red": ["red"],\n        "//platforms:large"',
    )
    return NONE


@_configurations("select folded to what it takes")
def _(ws: Workspace, rng: Random) -> Expected:
    label, value = rng.choice([("//app:flag_test", "slow.txt"), ("//app:alt_sh_test", "fast.txt")])
    ws.set(label, "data", f'["{value}"]')
    return NONE


@_configurations("config_setting")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//platforms:mode_alt", "values", f'{{"define": "mode={word(rng)}"}}')
    return just("//app:alt_py_test")


@_configurations("default of a build setting")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//platforms:fast", "build_setting_default", "True")
    return just("//app:flag_test", "//rules:fast_probe_test")


@_configurations("constraint of a platform that a select asks for")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("platforms/BUILD.bazel", '        ":accelerated",\n', '        ":accelerated",\n        ":large",\n')
    return just("//app:large_test")


@_configurations("constraint of a platform that nothing asks for")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("platforms/BUILD.bazel", '        ":accelerated",\n', '        ":accelerated",\n        ":red",\n')
    return NONE


@_configurations("constraint that a platform loses")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace("platforms/BUILD.bazel", '        ":accelerated",\n', "")
    return NONE


@_configurations("exec_properties of a platform")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.set("//platforms:alt", "exec_properties", f'{{"pool": "{word(rng)}"}}')
    return NONE


@_configurations("new platform")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.add("platforms", f'platform(\n    name = "{word(rng)}",\n    parents = [":alt"],\n)\n')
    return NONE


@_flags("flag for what tests are told")
def _(ws: Workspace, rng: Random) -> Expected:
    value = word(rng)
    flag = rng.choice([f"test_env=SETTING={value}", f"test_arg={value}", "runs_per_test=2"])
    ws.append(".bazelrc", f"{rng.choice(['test', 'build'])} --{flag}\n")
    return everything()


@_flags("test_env in alt")
def _(ws: Workspace, rng: Random) -> Expected:
    section = rng.choice(["test:alt", "build:alt"])
    ws.append(".bazelrc", f"{section} --test_env=SETTING={word(rng)}\n")
    return everything("alt")


@_flags("action_env")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", f"build --action_env=SETTING={word(rng)}\n")
    return everything()


@_flags("compilation mode")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build --compilation_mode=opt\n")
    return everything()


@_flags("compilation mode in alt")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build:alt --compilation_mode=opt\n")
    return everything("alt")


@_flags("define that a select asks for")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build --define=mode=alt\n")
    return just("//app:app_test")


@_flags("define that nothing asks for")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", f"build --define={word(rng)}=1\n")
    return NONE


@_flags("build setting in .bazelrc")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build --//platforms:fast=true\n")
    # (what the transition did is the default now: the same test in the same configuration, under another name)
    return just("//app:flag_test", "//rules:fast_probe_test")


@_flags("build setting that alt loses")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace(".bazelrc", "build:alt --//platforms:fast=true\n", "")
    return just("//app:alt_sh_test")


@_flags("copt")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "build --copt=-DSETTING\n")
    return NONE


@_flags("flag that does not reach the configuration")
def _(ws: Workspace, rng: Random) -> Expected:
    flag = rng.choice(["--color=no", "--noshow_progress", "--show_result=3", "--verbose_failures", "--jobs=3"])
    ws.append(".bazelrc", f"{rng.choice(['common', 'build', 'test'])} {flag}\n")
    return NONE


@_flags("section of another command or configuration")
def _(ws: Workspace, rng: Random) -> Expected:
    line = rng.choice(["run --test_env=A=1", "build:other --define=mode=alt", "coverage --test_env=A=1"])
    ws.append(".bazelrc", line + "\n")
    return NONE


@_flags("time limits on the command line")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", "test --test_timeout=77\n")
    return NONE


@_flags("comment or order in .bazelrc")
def _(ws: Workspace, rng: Random) -> Expected:
    text = ws.read(".bazelrc")
    first, second = "build:alt --define=mode=alt\n", "build:alt --//platforms:fast=true\n"
    ws.write(".bazelrc", rng.choice([f"# {word(rng)}\n{text}", text.replace(first + second, second + first)]))
    return NONE


@_flags("imported .bazelrc")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append("platforms/more.bazelrc", f"build --test_env=SETTING={word(rng)}\n")
    return everything()


@_flags("imported .bazelrc that is not there")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove("platforms/more.bazelrc")
    return ERROR


@_flags("flag that Bazel does not know")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", f"build --{word(rng)}\n")
    return ERROR


@_flags(".bazelversion", truth="declared", alone=True)
def _(ws: Workspace, rng: Random) -> Expected:
    ws.write(".bazelversion", "7.7.0\n")
    return everything()


@_blind("base does not load", truth="declared", alone=True)
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(["lib/BUILD.bazel", "forms/macros.bzl", "MODULE.bazel", "wheels/extension.bzl"])
    before = ws.read(path)
    ws.append(path, f"{word(rng)}(\n")
    ws.base = ws.commit()
    ws.write(path, before)
    return everything()

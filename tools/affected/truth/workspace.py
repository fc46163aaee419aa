"""A small Bazel workspace that has one of everything that a test can depend on.

No test does more than exit 0, so that a case costs Bazel's work and nothing else. Every generated file but one holds a
checksum of all that it was made from: a change of an input then always arrives at what depends on the output.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.bazel import host_bazel

CONFIGURATIONS = {"default": (), "alt": ("--config=alt",)}
"""Name to Bazel flags. A test belongs to the first in which it is compatible."""

_SH_TEST = """\
#!/bin/sh
# Test {name}.
[ -z "$TEST_SHARD_STATUS_FILE" ] || touch "$TEST_SHARD_STATUS_FILE"
exit 0
"""

_FILES = {
    ".bazelrc": """\
# Flags of the workspace.
build --incompatible_strict_action_env
build --incompatible_default_to_explicit_init_py
build --nolegacy_external_runfiles
build --nobuild_runfile_links
test --test_output=errors
build:alt --platforms=//platforms:alt
build:alt --define=mode=alt
build:alt --//platforms:fast=true
import %workspace%/platforms/more.bazelrc
""",
    ".bazelignore": "third_party/modules\n",
    ".gitignore": "/bazel-*\n__pycache__/\n",
    "README.md": "# A workspace\n",
    "MODULE.bazel": """\
module(name = "truth")

bazel_dep(name = "platforms", version = "1.0.0")

bazel_dep(name = "extra")
local_path_override(
    module_name = "extra",
    path = "third_party/modules/extra",
)

host_python = use_repo_rule("//python:host_python.bzl", "host_python")

host_python(name = "host_python")

wheels = use_extension("//wheels:extension.bzl", "wheels")
wheels.lock(
    default = "//wheels:default.txt",
    alt = "//wheels:alt.txt",
)
use_repo(wheels, "hub")

register_toolchains(
    "//python:alt_toolchain",
    "//python:default_toolchain",
    "//rules:alt_toolchain",
    "//rules:default_toolchain",
)
""",
    "BUILD.bazel": """\
sh_test(
    name = "root_test",
    srcs = ["root_test.sh"],
    data = ["root.txt"],
)
""",
    "root.txt": "root\n",
    # Chains of Python libraries.
    "lib/BUILD.bazel": """\
package(default_visibility = ["//visibility:public"])

# The bottom of the chain.
py_library(
    name = "base",
    srcs = ["base.py"],
)

py_library(
    name = "util",
    srcs = ["util.py"],
    deps = [":base"],
)

py_library(
    name = "text",
    srcs = [
        "text.py",
        "words.py",
    ],
    data = ["text.json"],
    imports = ["."],
    deps = [
        ":util",
        "@hub//gamma",
    ],
)

py_library(
    name = "spare",
    srcs = ["spare.py"],
)

py_test(
    name = "base_test",
    srcs = ["base_test.py"],
    tags = ["unit"],
    deps = [":base"],
)

py_test(
    name = "util_test",
    srcs = ["util_test.py"],
    tags = ["unit"],
    deps = [":util"],
)
""",
    "lib/base.py": "BASE = 1\n",
    "lib/util.py": "UTIL = 1\n",
    "lib/text.py": "TEXT = 1\n",
    "lib/words.py": "WORDS = 1\n",
    "lib/text.json": "{}\n",
    "lib/spare.py": "SPARE = 1\n",
    "lib/base_test.py": 'print("base_test")\n',
    "lib/util_test.py": 'print("util_test")\n',
    # select(), configurations, globs, attributes of tests.
    "app/BUILD.bazel": """\
package(default_visibility = ["//visibility:public"])

py_library(
    name = "app",
    srcs = ["app.py"] + select({
        "//platforms:mode_alt": ["app_alt.py"],
        "//conditions:default": ["app_default.py"],
    }),
    deps = ["//lib:text"],
)

py_test(
    name = "app_test",
    srcs = ["app_test.py"],
    tags = ["subsystem"],
    deps = [":app"],
)

py_test(
    name = "alt_py_test",
    srcs = ["alt_py_test.py"],
    target_compatible_with = ["//platforms:accelerated"],
    deps = [":app"],
)

sh_test(
    name = "alt_sh_test",
    srcs = ["alt_sh_test.sh"],
    data = select({
        "//platforms:is_fast": ["fast.txt"],
        "//conditions:default": ["slow.txt"],
    }),
    target_compatible_with = ["//platforms:accelerated"],
)

sh_test(
    name = "flag_test",
    srcs = ["flag_test.sh"],
    data = select({
        "//platforms:is_fast": ["fast.txt"],
        "//conditions:default": ["slow.txt"],
    }),
    target_compatible_with = [],
)

sh_test(
    name = "large_test",
    srcs = ["large_test.sh"],
    args = select({
        "//platforms:large": ["large"],
        "//conditions:default": ["small"],
    }),
    target_compatible_with = ["//platforms:accelerated"],
)

sh_test(
    name = "glob_test",
    srcs = ["glob_test.sh"],
    data = glob(
        ["assets/**/*.txt"],
        exclude = ["assets/skipped_*.txt"],
    ),
)

sh_test(
    name = "tuned_test",
    size = "small",
    timeout = "short",
    srcs = ["tuned_test.sh"],
    args = [
        "first",
        "second",
    ],
    env = {"TUNED": "1"},
    exec_properties = {"pool": "cpu"},
    shard_count = 2,
    tags = ["unit"],
)
""",
    "app/app.py": "APP = 1\n",
    "app/app_alt.py": "ALT = 1\n",
    "app/app_default.py": "DEFAULT = 1\n",
    "app/app_test.py": 'print("app_test")\n',
    "app/alt_py_test.py": 'print("alt_py_test")\n',
    "app/fast.txt": "fast\n",
    "app/slow.txt": "slow\n",
    "app/assets/one.txt": "one\n",
    "app/assets/two.txt": "two\n",
    "app/assets/skipped_three.txt": "three\n",
    "app/assets/deep/four.txt": "four\n",
    # A package inside a package.
    "app/nested/BUILD.bazel": """\
sh_test(
    name = "nested_test",
    srcs = ["nested_test.sh"],
    data = [
        "nested.txt",
        "//app:app.py",
    ],
)
""",
    "app/nested/nested.txt": "nested\n",
    # Files of every kind.
    "data/BUILD.bazel": """\
package(default_visibility = ["//visibility:public"])

exports_files(["shared.txt"])

filegroup(
    name = "files",
    srcs = [
        "a.txt",
        "b.bin",
    ],
)

filegroup(
    name = "other_files",
    srcs = ["c.txt"],
)

alias(
    name = "current",
    actual = ":files",
)

sh_test(
    name = "alias_test",
    srcs = ["alias_test.sh"],
    data = [":current"],
)

sh_test(
    name = "folder_test",
    srcs = ["folder_test.sh"],
    data = ["folder"],
)

sh_test(
    name = "link_test",
    srcs = ["link_test.sh"],
    data = ["link.txt"],
)

sh_test(
    name = "chain_test",
    srcs = ["chain_test.sh"],
    data = ["chain.txt"],
)

sh_test(
    name = "linked_test",
    srcs = ["linked_test.sh"],
    data = ["linked"],
)

sh_test(
    name = "script_test",
    srcs = ["script_test.sh"],
    data = [
        "script.sh",
        "shared.txt",
    ],
)
""",
    "data/a.txt": "a\n",
    "data/b.bin": "\x00\x01\n",
    "data/c.txt": "c\n",
    "data/shared.txt": "shared\n",
    "data/script.sh": "#!/bin/sh\nexit 0\n",
    "data/folder/x.txt": "x\n",
    "data/folder/deep/y.txt": "y\n",
    "data/targets/first.txt": "first\n",
    "data/targets/second.txt": "second\n",
    "data/targets/same.txt": "first\n",
    # Generated files.
    "gen/BUILD.bazel": """\
load(":folder.bzl", "folder")

sh_binary(
    name = "stamp",
    srcs = ["stamp.sh"],
)

genrule(
    name = "stamped",
    srcs = ["stamped.in"],
    outs = ["stamped.txt"],
    cmd = "$(execpath :stamp) $< > $@",
    tools = [":stamp"],
)

py_library(
    name = "render_lib",
    srcs = ["render_lib.py"],
)

py_binary(
    name = "render",
    srcs = ["render.py"],
    deps = [":render_lib"],
)

genrule(
    name = "rendered",
    srcs = ["rendered.in"],
    outs = ["rendered.py"],
    cmd = "$(execpath :render) $< > $@",
    tools = [":render"],
)

py_library(
    name = "generated",
    srcs = [":rendered"],
)

genrule(
    name = "joined",
    srcs = [
        ":stamped",
        "tail.txt",
    ],
    outs = ["joined.txt"],
    cmd = "cat $(SRCS) > $@",
)

genrule(
    name = "counted",
    srcs = ["counted.in"],
    outs = ["counted.txt"],
    cmd = "$(execpath :count) $< > $@",
    tools = [":count"],
)

genrule(
    name = "doubled",
    srcs = [":counted"],
    outs = ["doubled.txt"],
    cmd = "cat $< $< > $@",
)

genrule(
    name = "labelled",
    outs = ["labelled.txt"],
    cmd = "grep EMBED_LABEL bazel-out/stable-status.txt > $@ || true",
    stamp = 1,
)

sh_binary(
    name = "count",
    srcs = ["count.sh"],
)

folder(
    name = "counts",
    srcs = ["counts.in"],
)

sh_test(
    name = "joined_test",
    srcs = ["joined_test.sh"],
    data = [":joined"],
)

sh_test(
    name = "counted_test",
    srcs = ["counted_test.sh"],
    data = [":counted"],
)

sh_test(
    name = "doubled_test",
    srcs = ["doubled_test.sh"],
    data = [":doubled"],
)

sh_test(
    name = "labelled_test",
    srcs = ["labelled_test.sh"],
    data = [":labelled"],
)

sh_test(
    name = "counts_test",
    srcs = ["counts_test.sh"],
    data = [":counts"],
)

sh_test(
    name = "render_test",
    srcs = ["render_test.sh"],
    data = [":render"],
)

py_test(
    name = "generated_test",
    srcs = ["generated_test.py"],
    deps = [":generated"],
)
""",
    "gen/stamp.sh": '#!/bin/sh\n# Stamps.\ncat "$1"\ncksum < "$0"\n',
    "gen/count.sh": '#!/bin/sh\nwc -l < "$1"\n',
    "gen/counts.in": "one\ntwo\n",
    "gen/folder.bzl": '''\
"""A folder with the number of lines of each source."""

def _impl(ctx):
    made = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        arguments = [made.path] + [file.path for file in ctx.files.srcs],
        command = 'to=$1; shift; for file in "$@"; do wc -l < "$file" > "$to/$(basename "$file")"; done',
        inputs = ctx.files.srcs,
        outputs = [made],
    )
    return [DefaultInfo(files = depset([made]), runfiles = ctx.runfiles([made]))]

folder = rule(
    implementation = _impl,
    attrs = {"srcs": attr.label_list(allow_files = True)},
)
''',
    "gen/stamped.in": "in\n",
    "gen/render_lib.py": "RENDER = 1\n",
    "gen/render.py": '''\
"""Prints a checksum of its own runfiles, interpreter's fingerprint included, and of its input."""
import pathlib, sys, zlib

print("# made from")
runfiles = next(path for path in pathlib.Path(__file__).parents if path.suffix == ".runfiles")
for path in sorted(runfiles.rglob("*.*")):
    if path.suffix in (".py", ".txt"):
        print("#", path.name, zlib.crc32(path.read_bytes()))
print("#", zlib.crc32(pathlib.Path(sys.argv[1]).read_bytes()))
''',
    "gen/rendered.in": "in\n",
    "gen/tail.txt": "tail\n",
    "gen/counted.in": "one\ntwo\n",
    "gen/generated_test.py": 'print("generated_test")\n',
    # Macros with several callers and constants.
    "forms/constants.bzl": '''\
"""Constants."""

COLOUR = "red"
SHAPE = "round"
UNUSED = "unused"
''',
    "forms/inner.bzl": '''\
"""The macro that the other one calls."""

def plain_test(name, **kwargs):
    native.sh_test(
        name = name,
        srcs = [name + ".sh"],
        **kwargs
    )
''',
    "forms/macros.bzl": '''\
"""A macro with several callers."""

load(":constants.bzl", "COLOUR")
load(":inner.bzl", "plain_test")

def form_test(name, style = "simple", data = []):
    """A test with a style."""
    args = ["--style=" + style]
    if style == "coloured":
        args.append("--colour=" + COLOUR)
    plain_test(
        name = name,
        args = args,
        data = data,
    )
''',
    "forms/BUILD.bazel": """\
load(":constants.bzl", "SHAPE")
load(":macros.bzl", "form_test")
load(":inner.bzl", "plain_test")

form_test(
    name = "simple_test",
)

form_test(
    name = "coloured_test",
    style = "coloured",
)

form_test(
    name = "striped_test",
    data = ["stripes.txt"],
    style = "striped",
)

plain_test(
    name = "shape_test",
    env = {"SHAPE": SHAPE},
)
""",
    "forms/stripes.txt": "stripes\n",
    # A rule of our own, with a toolchain of our own and a transition.
    "rules/BUILD.bazel": """\
load(":rules.bzl", "fast_probe_test", "probe_test")
load(":toolchain.bzl", "probe_toolchain")

exports_files(["probe.tpl"])

toolchain_type(name = "toolchain_type")

probe_toolchain(
    name = "default_probe",
    flavour = "plain",
    payload = "default.payload",
)

probe_toolchain(
    name = "alt_probe",
    flavour = "alt",
    payload = "alt.payload",
)

probe_toolchain(
    name = "spare_probe",
    flavour = "spare",
    payload = "spare.payload",
)

toolchain(
    name = "default_toolchain",
    toolchain = ":default_probe",
    toolchain_type = ":toolchain_type",
)

toolchain(
    name = "alt_toolchain",
    target_compatible_with = ["//platforms:accelerated"],
    toolchain = ":alt_probe",
    toolchain_type = ":toolchain_type",
)

toolchain(
    name = "spare_toolchain",
    toolchain = ":spare_probe",
    toolchain_type = ":toolchain_type",
)

probe_test(
    name = "probe_test",
    data = ["probe.txt"],
    place = "first",
)

probe_test(
    name = "other_probe_test",
    greeting = "hello",
)

fast_probe_test(
    name = "fast_probe_test",
    data = select({
        "//platforms:is_fast": ["fast.txt"],
        "//conditions:default": ["slow.txt"],
    }),
)

probe_test(
    name = "alt_probe_test",
    target_compatible_with = ["//platforms:accelerated"],
)
""",
    "rules/toolchain.bzl": '''\
"""What probe tests are made with."""

def _impl(ctx):
    return [platform_common.ToolchainInfo(flavour = ctx.attr.flavour, payload = ctx.file.payload)]

probe_toolchain = rule(
    implementation = _impl,
    attrs = {
        "flavour": attr.string(),
        "payload": attr.label(allow_single_file = True),
    },
)
''',
    "rules/impl.bzl": '''\
"""How a probe test is made."""

TOOLCHAIN = "//rules:toolchain_type"

def probe_impl(ctx):
    """Expands the template."""
    toolchain = ctx.toolchains[TOOLCHAIN]
    script = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.expand_template(
        template = ctx.file._template,
        output = script,
        is_executable = True,
        substitutions = {
            "{features}": " ".join(sorted(ctx.features)),
            "{flavour}": toolchain.flavour,
            "{greeting}": ctx.attr.greeting,
        },
    )
    places = {ctx.attr.place: toolchain.payload} if ctx.attr.place else {}
    runfiles = ctx.runfiles(ctx.files.data + [toolchain.payload], symlinks = places)
    return [DefaultInfo(executable = script, runfiles = runfiles)]
''',
    "rules/rules.bzl": '''\
"""Rules."""

load(":impl.bzl", "TOOLCHAIN", "probe_impl")

_ATTRS = {
    "data": attr.label_list(allow_files = True),
    "greeting": attr.string(default = "good day"),
    "place": attr.string(),
    "_template": attr.label(default = "//rules:probe.tpl", allow_single_file = True),
}

probe_test = rule(
    implementation = probe_impl,
    attrs = _ATTRS,
    test = True,
    toolchains = [TOOLCHAIN],
)

def _fast_impl(settings, attr):
    return {"//platforms:fast": True}

_fast = transition(
    implementation = _fast_impl,
    inputs = [],
    outputs = ["//platforms:fast"],
)

fast_probe_test = rule(
    implementation = probe_impl,
    attrs = _ATTRS | {
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
    cfg = _fast,
    test = True,
    toolchains = [TOOLCHAIN],
)
''',
    "rules/probe.tpl": "#!/bin/sh\n# {flavour}: {greeting}.\n# {features}.\nexit 0\n",
    "rules/default.payload": "default\n",
    "rules/alt.payload": "alt\n",
    "rules/spare.payload": "spare\n",
    "rules/probe.txt": "probe\n",
    "rules/fast.txt": "fast\n",
    "rules/slow.txt": "slow\n",
    # One repository per locked wheel, behind a hub.
    "wheels/BUILD.bazel": """\
py_test(
    name = "alpha_test",
    srcs = ["alpha_test.py"],
    deps = ["@hub//alpha"],
)

py_test(
    name = "beta_test",
    srcs = ["beta_test.py"],
    deps = ["@hub//beta"],
)

py_test(
    name = "delta_test",
    srcs = ["delta_test.py"],
    deps = ["@hub//delta"],
)

py_test(
    name = "alt_delta_test",
    srcs = ["alt_delta_test.py"],
    target_compatible_with = ["//platforms:accelerated"],
    deps = ["@hub//delta"],
)
""",
    "wheels/default.txt": """\
# Locked by hand.
alpha==1.0 --hash=sha256:a1
beta==1.0 --hash=sha256:b1
    # via alpha
delta==1.0 --hash=sha256:d1
epsilon==1.0 --hash=sha256:e1
gamma==1.0 --hash=sha256:c1
    # via beta
""",
    "wheels/alt.txt": """\
# Locked by hand.
alpha==1.0 --hash=sha256:a1
beta==1.0 --hash=sha256:b1
    # via alpha
delta==1.0+alt --hash=sha256:d2
gamma==1.0+alt --hash=sha256:c2
    # via beta
""",
    "wheels/wheel.bzl": '''\
"""One wheel as a repository."""

_BUILD = """\\
py_library(
    name = "pkg",
    data = [
        "site-packages",
        "stamp.txt",
    ],
    imports = ["site-packages"],
    tags = ["wheel={wheel}"],
    visibility = ["//visibility:public"],
    deps = {deps},
)
"""

def _wheel_impl(rctx):
    wheel = rctx.attr.requirement.partition(" ")[0]
    name = wheel.partition("==")[0]
    rctx.file("site-packages/{}/__init__.py".format(name), "__version__ = {}\\n".format(repr(wheel)))
    rctx.file("stamp.txt", rctx.attr.requirement + "\\n")
    rctx.file("BUILD.bazel", _BUILD.format(deps = repr(rctx.attr.deps), wheel = wheel))

wheel = repository_rule(
    implementation = _wheel_impl,
    attrs = {
        "deps": attr.string_list(),
        "requirement": attr.string(),
    },
)
''',
    "wheels/hub.bzl": '''\
"""The public names of wheels."""

_BUILD = """\\
alias(
    name = "{name}",
    actual = select({branches}),
    visibility = ["//visibility:public"],
)
"""

def _hub_impl(rctx):
    rctx.file("BUILD.bazel")
    for name, branches in rctx.attr.wheels.items():
        rctx.file(name + "/BUILD.bazel", _BUILD.format(branches = branches, name = name))

hub = repository_rule(
    implementation = _hub_impl,
    attrs = {"wheels": attr.string_dict()},
)
''',
    "wheels/extension.bzl": '''\
"""Reads the locks."""

load(":hub.bzl", "hub")
load(":wheel.bzl", "wheel")

def _parse(text, where):
    """{name: struct(requirement, deps)}; a `# via` line names who needs the wheel above it."""
    requirements = {}
    deps = {}
    last = None
    for line in text.split("\\n"):
        words = [word for word in line.split(" ") if word]
        if line.startswith(" ") and words[:2] == ["#", "via"]:
            for name in words[2:]:
                deps.setdefault(name, []).append(last)
        elif words and not line.startswith("#"):
            last, equals, _ = words[0].partition("==")
            if not equals:
                fail("{}: {} is not pinned".format(where, words[0]))
            requirements[last] = " ".join(words)
    return {
        name: struct(deps = sorted(deps.get(name, [])), requirement = requirement)
        for name, requirement in requirements.items()
    }

def _wheels_impl(mctx):
    branches = {}
    for tag in mctx.modules[0].tags.lock:
        for lock, prefix, condition in [
            (tag.default, "default", "//conditions:default"),
            (tag.alt, "alt", str(Label("//platforms:accelerated"))),
        ]:
            for name, row in _parse(mctx.read(lock), str(lock)).items():
                repository = "hub_{}_{}".format(prefix, name)
                wheel(
                    name = repository,
                    deps = ["@hub//" + dep for dep in row.deps],
                    requirement = row.requirement,
                )
                branches.setdefault(name, {})[condition] = "@{}//:pkg".format(repository)
    hub(name = "hub", wheels = {name: repr(labels) for name, labels in branches.items()})

wheels = module_extension(
    implementation = _wheels_impl,
    tag_classes = {
        "lock": tag_class(attrs = {
            "alt": attr.label(),
            "default": attr.label(),
        }),
    },
)
''',
    "wheels/alpha_test.py": 'print("alpha_test")\n',
    "wheels/beta_test.py": 'print("beta_test")\n',
    "wheels/delta_test.py": 'print("delta_test")\n',
    "wheels/alt_delta_test.py": 'print("alt_delta_test")\n',
    # The interpreter, one toolchain per configuration.
    "python/host_python.bzl": '''\
"""The machine's Python."""

def _impl(rctx):
    rctx.symlink(rctx.which("python3"), "bin/python3")
    rctx.file("BUILD.bazel", "exports_files([\\"bin/python3\\"])\\n")

host_python = repository_rule(implementation = _impl)
''',
    "python/BUILD.bazel": """\
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

[
    py_runtime(
        name = name + "_runtime",
        files = [name + ".fingerprint.txt"],
        interpreter = "@host_python//:bin/python3",
        python_version = "PY3",
        visibility = ["//visibility:public"],
    )
    for name in [
        "alt",
        "default",
    ]
]

py_runtime_pair(
    name = "default_pair",
    py3_runtime = ":default_runtime",
)

py_runtime_pair(
    name = "alt_pair",
    py3_runtime = ":alt_runtime",
)

toolchain(
    name = "default_toolchain",
    toolchain = ":default_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)

toolchain(
    name = "alt_toolchain",
    target_compatible_with = ["//platforms:accelerated"],
    toolchain = ":alt_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
""",
    "python/default.fingerprint.txt": "3.11.1\n",
    "python/alt.fingerprint.txt": "3.11.1\n",
    # What configurations are made of.
    "platforms/more.bazelrc": "# Imported by .bazelrc.\nbuild --define=unused=1\n",
    "platforms/flag.bzl": '''\
"""A build setting."""

bool_flag = rule(
    implementation = lambda ctx: [],
    build_setting = config.bool(flag = True),
)
''',
    "platforms/BUILD.bazel": """\
load(":flag.bzl", "bool_flag")

package(default_visibility = ["//visibility:public"])

constraint_setting(name = "device")

constraint_value(
    name = "accelerated",
    constraint_setting = ":device",
)

constraint_setting(name = "memory")

constraint_value(
    name = "large",
    constraint_setting = ":memory",
)

constraint_setting(name = "colour")

constraint_value(
    name = "red",
    constraint_setting = ":colour",
)

platform(
    name = "alt",
    constraint_values = [
        ":accelerated",
    ],
    parents = ["@platforms//host"],
)

bool_flag(
    name = "fast",
    build_setting_default = False,
)

config_setting(
    name = "is_fast",
    flag_values = {":fast": "true"},
)

config_setting(
    name = "mode_alt",
    values = {"define": "mode=alt"},
)
""",
    # A module of the workspace's own.
    "modules/BUILD.bazel": """\
sh_test(
    name = "extra_test",
    srcs = ["extra_test.sh"],
    data = ["@extra//:files"],
)
""",
    "third_party/modules/extra/MODULE.bazel": 'module(name = "extra")\n',
    "third_party/modules/extra/BUILD.bazel": """\
filegroup(
    name = "files",
    srcs = ["extra.txt"],
    visibility = ["//visibility:public"],
)
""",
    "third_party/modules/extra/extra.txt": "extra\n",
    # What is never in the answer.
    "suites/BUILD.bazel": """\
sh_test(
    name = "first_test",
    srcs = ["first_test.sh"],
    data = ["first.txt"],
)

sh_test(
    name = "second_test",
    srcs = ["second_test.sh"],
)

sh_test(
    name = "manual_test",
    srcs = ["manual_test.sh"],
    data = ["first.txt"],
    tags = ["manual"],
)

sh_test(
    name = "incompatible_test",
    srcs = ["incompatible_test.sh"],
    data = ["first.txt"],
    target_compatible_with = ["@platforms//:incompatible"],
)

test_suite(
    name = "suite",
    tests = [":first_test"],
)
""",
    "suites/first.txt": "first\n",
    # Nothing depends on these.
    "third_party/modules/README.md": "Stand-ins.\n",
    "notes/plan.txt": "plan\n",
    # Only links lead here.
    "notes/end.txt": "end\n",
    "notes/outside.txt": "outside\n",
    "notes/linked/x.txt": "x\n",
    "notes/linked/deep/y.txt": "y\n",
}

_LINKS = {
    "data/link.txt": "targets/first.txt",
    "data/chain.txt": "targets/hop.txt",
    "data/targets/hop.txt": "../../notes/end.txt",
    "data/folder/outside.txt": "../../notes/outside.txt",
    "data/linked": "../notes/linked",
}

_SH_TESTS = (
    "root_test",
    "app/alt_sh_test",
    "app/flag_test",
    "app/large_test",
    "app/glob_test",
    "app/tuned_test",
    "app/nested/nested_test",
    "data/alias_test",
    "data/folder_test",
    "data/link_test",
    "data/chain_test",
    "data/linked_test",
    "data/script_test",
    "gen/joined_test",
    "gen/counted_test",
    "gen/doubled_test",
    "gen/labelled_test",
    "gen/counts_test",
    "gen/render_test",
    "modules/extra_test",
    "forms/simple_test",
    "forms/coloured_test",
    "forms/striped_test",
    "forms/shape_test",
    "suites/first_test",
    "suites/second_test",
    "suites/manual_test",
    "suites/incompatible_test",
)


def sh_test(name: str) -> str:
    """The script of a test that passes."""
    return _SH_TEST.format(name=name)


def write(root: Path, bazel_version: str) -> None:
    """Writes the workspace into `root`, which is replaced, as a git repository with one commit.

    Args:
      root: the folder to make.
      bazel_version: content of its .bazelversion.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    host_bazel.make_workspace(root)
    files = {**_FILES, ".bazelversion": bazel_version + "\n"}
    files[".bazelrc"] = (root / ".bazelrc").read_text(encoding="utf-8") + files[".bazelrc"]
    files |= {f"{name}.sh": sh_test(name) for name in _SH_TESTS}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "The workspace")


def git(root: Path, *arguments: str) -> str:
    """Runs git in the workspace, without the user's own configuration; returns what it printed.

    Raises:
      RuntimeError: git failed.
    """
    settings = {"user.name": "truth", "user.email": "truth@example.org", "core.quotePath": "false", "gc.auto": "0"}
    command = ["git", *[word for name, value in settings.items() for word in ("-c", f"{name}={value}")], *arguments]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} in {root}: {result.stdout}{result.stderr}")
    return result.stdout.strip()


def commit(root: Path, message: str) -> str:
    """Commits all that there is; returns the commit's id."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--no-verify", "--allow-empty", "--message", message)
    return git(root, "rev-parse", "HEAD")

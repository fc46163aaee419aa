"""Tests that what the expansion says arrives in the targets that Bazel makes, and which platforms fit them."""

load("@bazel_skylib//lib:partial.bzl", "partial")
load("@bazel_skylib//lib:unittest.bzl", "analysistest", "asserts", "unittest")
load("//tools/platforms:levels.bzl", "ACCELERATORS", "FLEET", "LEVELS", "constraint_name")
load(":accelerator_test.bzl", "accelerator_test")

# Attributes of the targets.

def _wiring_test_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(env, "{}", ctx.attr.differences)
    return unittest.end(env)

_wiring_test = unittest.make(_wiring_test_impl, attrs = {"differences": attr.string()})

# Of two targets that BUILD.bazel makes by one declaration: the test, and the program that it runs.
_ATTRIBUTES = {
    "example_test_gpu": {
        "args": ("-v",),
        "exec_properties": {"test.Pool": "multi-gpu"},
        "hardware": "gpu",
        "kind": "accelerator_test",
        "program": ":example_test_gpu.program",
        "shard_count": 3,
        "size": "medium",
        "tags": ("gpu", "multi-gpu", "requires-gpu-nvidia", "resources:gpu:2", "subsystem"),
        "target_compatible_with": ("//tools/platforms:--config=gpu_x2",),
        "timeout": "short",
    },
    "example_test_gpu.program": {
        "env": {
            "A": "b",
            "PYTHONHASHSEED": "0",
            "TRAINYARD_DEVICES": "2",
            "TRAINYARD_HARDWARE": "gpu",
            "TRAINYARD_TARGET": '{"allowed_skips":[],"files":["testing/private/example_test.py"],"tier":"subsystem"}',
        },
        "main": "//testing/runner:main.py",
        "srcs": (":example_test.py", "//testing/runner:main.py"),
        "tags": ("manual",),
        "target_compatible_with": ("//tools/platforms:--config=gpu_x2",),
        "testonly": True,
    },
}

def _short(value):
    """A label of this repo without its leading signs."""
    return value.removeprefix("@@").removeprefix("@") if type(value) == "string" else value

def _plain(value):
    """What existing_rule gives, comparable: short labels, and without the tag that rules_python adds."""
    if type(value) in ("list", "tuple"):
        return tuple([_short(v) for v in value if not str(v).startswith("__PYTHON_RULES_MIGRATION")])
    return _short(value)

# Platforms.

def _hardware_probe_impl(ctx):
    executable = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(executable, "", is_executable = True)
    return [
        DefaultInfo(executable = executable),
        RunEnvironmentInfo(environment = {"HARDWARE": " ".join(ctx.attr.constraints)}),
    ]

# A program whose environment says which constraints of //tools/platforms its platform has.
_hardware_probe = rule(
    implementation = _hardware_probe_impl,
    attrs = {"constraints": attr.string_list()},
    executable = True,
)

def _platform_test_impl(ctx):
    env = analysistest.begin(ctx)
    found = analysistest.target_under_test(env)[RunEnvironmentInfo].environment["HARDWARE"]
    asserts.equals(env, " ".join(ctx.attr.expected), found)
    return analysistest.end(env)

def _make_platform_test(platform):
    return analysistest.make(
        _platform_test_impl,
        attrs = {"expected": attr.string_list()},
        config_settings = {"//command_line_option:platforms": platform},
    )

_gpu_test = _make_platform_test(str(Label("//tools/platforms:gpu")))
_gpu_x4_test = _make_platform_test(str(Label("//tools/platforms:gpu_x4")))
_gpu_x8_test = _make_platform_test(str(Label("//tools/platforms:gpu_x8")))
_trainium_test = _make_platform_test(str(Label("//tools/platforms:trainium")))
_trainium_x32_test = _make_platform_test(str(Label("//tools/platforms:trainium_x32")))
_fleet_test = _make_platform_test(str(Label("//tools/platforms:fleet")))
_host_test = _make_platform_test(str(Label("@platforms//host")))

_EVERY_CONSTRAINT = ACCELERATORS.values() + [
    constraint_name(hardware, level)
    for hardware, levels in LEVELS.items()
    for level in levels
]

_FLEET = [
    constraint_name(hardware, level)
    for hardware in FLEET
    for level in LEVELS[hardware]
]

# (test of a platform, what is looked at, what it finds there)
_PLATFORMS = [
    (_gpu_test, "hardware_probe", ["cuda13", "--config=gpu"]),
    (_gpu_x4_test, "hardware_probe", ["cuda13", "--config=gpu", "--config=gpu_x2", "--config=gpu_x4"]),
    (_gpu_x8_test, "hardware_probe", ["cuda13", "--config=gpu", "--config=gpu_x2", "--config=gpu_x4", "--config=gpu_x8"]),
    (_host_test, "hardware_probe", []),
    (_trainium_test, "hardware_probe", ["neuron", "--config=trainium"]),
    (_trainium_x32_test, "hardware_probe", ["neuron", "--config=trainium", "--config=trainium_x8", "--config=trainium_x32"]),
    # In the fleet each pool has its own wheels; elsewhere a test takes its host's.
    (_fleet_test, "hardware_probe", _FLEET),
    (_fleet_test, "gpu_probe_test", ["cuda13"] + _FLEET),
    (_fleet_test, "trainium_probe_test", ["neuron"] + _FLEET),
    (_gpu_x4_test, "gpu_probe_test", ["cuda13", "--config=gpu", "--config=gpu_x2", "--config=gpu_x4"]),
    (_host_test, "gpu_probe_test", []),
]

def wiring_test_suite(name):
    """Declares the tests of this file; call it after :example_test is declared.

    Args:
      name: of the suite.
    """
    differences = {}
    for target, attributes in _ATTRIBUTES.items():
        made = native.existing_rule(target)
        for attribute, expected in attributes.items():
            if _plain(made[attribute]) != expected:
                differences[target + "." + attribute] = (_plain(made[attribute]), expected)

    _hardware_probe(
        name = "hardware_probe",
        constraints = _selected(),
        tags = ["manual"],
        testonly = True,
    )
    for hardware in ACCELERATORS:
        accelerator_test(
            name = hardware + "_probe_test",
            hardware = hardware,
            program = ":hardware_probe",
            tags = ["manual"],
        )
    unittest.suite(
        name,
        partial.make(_wiring_test, differences = str(differences), size = "small", tags = ["cpu", "unit"]),
        *[
            partial.make(test, expected = expected, size = "small", tags = ["cpu", "unit"], target_under_test = ":" + target)
            for test, target, expected in _PLATFORMS
        ]
    )

def _selected():
    """A list that holds each constraint which the platform has."""
    found = []
    for constraint in _EVERY_CONSTRAINT:
        found = found + select({
            "//conditions:default": [],
            "//tools/platforms:" + constraint: [constraint],
        })
    return found

"""Tests that what the expansion says arrives in the targets that Bazel makes, and which platforms fit them."""

load("@bazel_skylib//lib:partial.bzl", "partial")
load("@bazel_skylib//lib:unittest.bzl", "analysistest", "asserts", "unittest")
load("//tools/platforms:levels.bzl", "ACCELERATORS", "LEVELS", "constraint_name")

# Attributes of the targets.

def _wiring_test_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(env, "{}", ctx.attr.differences)
    return unittest.end(env)

_wiring_test = unittest.make(_wiring_test_impl, attrs = {"differences": attr.string()})

# Of :example_test_gpu in BUILD.bazel.
_ATTRIBUTES = {
    "args": ("-v",),
    "env": {
        "A": "b",
        "PYTHONHASHSEED": "0",
        "TRAINYARD_DEVICES": "2",
        "TRAINYARD_HARDWARE": "gpu",
        "TRAINYARD_TARGET": '{"allowed_skips":[],"files":["testing/private/example_test.py"],"tier":"subsystem"}',
    },
    "exec_properties": {"test.Pool": "multi-gpu"},
    "main": "//testing/runner:main.py",
    "shard_count": 3,
    "size": "medium",
    "srcs": (":example_test.py", "//testing/runner:main.py"),
    "tags": ("gpu", "multi-gpu", "requires-gpu-nvidia", "resources:gpu:2", "subsystem"),
    "target_compatible_with": ("//tools/platforms:--config=gpu_x2",),
    "timeout": "short",
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

_HardwareInfo = provider("The hardware that a platform has.", fields = ["constraints"])

def _hardware_probe_impl(ctx):
    return [_HardwareInfo(constraints = ctx.attr.constraints)]

# Which constraints of //tools/platforms the target platform has.
_hardware_probe = rule(implementation = _hardware_probe_impl, attrs = {"constraints": attr.string_list()})

def _platform_test_impl(ctx):
    env = analysistest.begin(ctx)
    asserts.equals(env, ctx.attr.expected, analysistest.target_under_test(env)[_HardwareInfo].constraints)
    return analysistest.end(env)

def _make_platform_test(platform):
    return analysistest.make(
        _platform_test_impl,
        attrs = {"expected": attr.string_list()},
        config_settings = {"//command_line_option:platforms": str(Label("//tools/platforms:" + platform))},
    )

_gpu_test = _make_platform_test("gpu")
_gpu_x4_test = _make_platform_test("gpu_x4")
_gpu_x8_test = _make_platform_test("gpu_x8")
_trainium_test = _make_platform_test("trainium")
_trainium_x32_test = _make_platform_test("trainium_x32")
_fleet_test = _make_platform_test("fleet")
_host_test = analysistest.make(
    _platform_test_impl,
    attrs = {"expected": attr.string_list()},
    config_settings = {"//command_line_option:platforms": str(Label("@platforms//host"))},
)

_EVERY_CONSTRAINT = ACCELERATORS.values() + [
    constraint_name(hardware, level)
    for hardware, levels in LEVELS.items()
    for level in levels
]

_PLATFORMS = {
    "fleet": (_fleet_test, [c for c in _EVERY_CONSTRAINT if c != "neuron"]),
    "gpu": (_gpu_test, ["cuda13", "--config=gpu"]),
    "gpu_x4": (_gpu_x4_test, ["cuda13", "--config=gpu", "--config=gpu_x2", "--config=gpu_x4"]),
    "gpu_x8": (_gpu_x8_test, ["cuda13", "--config=gpu", "--config=gpu_x2", "--config=gpu_x4", "--config=gpu_x8"]),
    "host": (_host_test, []),
    "trainium": (_trainium_test, ["neuron", "--config=trainium"]),
    "trainium_x32": (_trainium_x32_test, ["neuron", "--config=trainium", "--config=trainium_x8", "--config=trainium_x32"]),
}

def wiring_test_suite(name):
    """Declares the tests of this file; call it after :example_test is declared.

    Args:
      name: of the suite.
    """
    made = native.existing_rule("example_test_gpu")
    differences = {
        attribute: (_plain(made[attribute]), expected)
        for attribute, expected in _ATTRIBUTES.items()
        if _plain(made[attribute]) != expected
    }

    _hardware_probe(
        name = "hardware_probe",
        constraints = _selected(),
        tags = ["manual"],
    )
    unittest.suite(
        name,
        partial.make(_wiring_test, differences = str(differences), size = "small", tags = ["cpu", "unit"]),
        *[
            partial.make(test, expected = expected, size = "small", tags = ["cpu", "unit"], target_under_test = ":hardware_probe")
            for test, expected in _PLATFORMS.values()
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

"""A test for an accelerator: its program takes the wheels of the workers that it is sent to."""

load("//tools/platforms:levels.bzl", "ACCELERATORS", "fleet_name")

_PLATFORMS = "//command_line_option:platforms"
_FLEET = Label("//tools/platforms:fleet")

def _to_its_workers_impl(settings, attr):
    if settings[_PLATFORMS] == [_FLEET]:
        return {_PLATFORMS: [Label("//tools/platforms:" + fleet_name(attr.hardware))]}
    return {_PLATFORMS: settings[_PLATFORMS]}

# Of the fleet's pools each has its own wheels; a host of one kind has one platform for all its tests.
_to_its_workers = transition(
    implementation = _to_its_workers_impl,
    inputs = [_PLATFORMS],
    outputs = [_PLATFORMS],
)

def _accelerator_test_impl(ctx):
    (program,) = ctx.attr.program
    executable = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(
        is_executable = True,
        output = executable,
        target_file = program[DefaultInfo].files_to_run.executable,
    )
    return [
        DefaultInfo(
            executable = executable,
            files = depset([executable]),
            runfiles = ctx.runfiles([executable]).merge(program[DefaultInfo].default_runfiles),
        ),
        program[RunEnvironmentInfo],
        coverage_common.instrumented_files_info(ctx, dependency_attributes = ["program"]),
    ]

accelerator_test = rule(
    implementation = _accelerator_test_impl,
    attrs = {
        "hardware": attr.string(mandatory = True, values = ACCELERATORS.keys()),
        "program": attr.label(cfg = _to_its_workers, doc = "A py_binary.", executable = True, mandatory = True),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
    doc = """Runs a program as a test.

The test itself stays on the target platform, so that its logs are where those of all tests are.
""",
    test = True,
)

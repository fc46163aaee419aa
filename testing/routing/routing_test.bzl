"""Tests that say in which pool they ran: where a declaration sends a test is where it goes."""

load("//testing/private:expand.bzl", "expand")

# Workers of tools/remote tell their actions their names, such as multi-gpu-1.
_PRINT_POOL = "worker=${TRAINYARD_WORKER-no worker}; echo \"${worker%-*}\""

_SCRIPT = """\
#!/bin/sh
ran=$({print_pool})
built=$(cat {built})
echo "ran in pool $ran, was built in pool $built"
[ "$ran" = {expected} ] && [ "$built" = {expected_of_builds} ] && exit
echo 'expected {expected}, and {expected_of_builds} for what builds it' >&2
exit 1
"""

def _routing_test_impl(ctx):
    built = ctx.actions.declare_file(ctx.label.name + ".built")
    ctx.actions.run_shell(
        arguments = [built.path],
        command = "({}) >\"$1\"".format(_PRINT_POOL),
        mnemonic = "RoutingProbe",
        outputs = [built],
    )
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(
        content = _SCRIPT.format(
            built = built.short_path,
            expected = ctx.attr.pool,
            expected_of_builds = ctx.attr.pool_of_builds,
            print_pool = _PRINT_POOL,
        ),
        is_executable = True,
        output = script,
    )
    return [DefaultInfo(executable = script, runfiles = ctx.runfiles([built]))]

_routing_test = rule(
    implementation = _routing_test_impl,
    attrs = {
        "pool": attr.string(doc = "Where it is to run.", mandatory = True),
        "pool_of_builds": attr.string(default = "cpu", doc = "Where the actions that build it are to run."),
    },
    test = True,
)

def routing_test(*, name, pool, hardware = None, devices = 1):
    """Declares a test as trainer_test would for `hardware`; without, one that names no pool.

    Args:
      name: of the test.
      pool: where it is to run.
      hardware: as in trainer_test.
      devices: likewise, one count.
    """
    exec_properties = {}
    if hardware:
        (variant,) = expand(
            devices = devices,
            hardware = [hardware],
            name = name,
            package = native.package_name(),
            srcs = ["routing_test.py"],
            tier = "unit",
        ).variants
        exec_properties = variant.exec_properties
    _routing_test(
        name = name,
        size = "small",
        exec_properties = exec_properties,
        pool = pool,
        # It has no use for devices, so none are asked for; and only on workers has it anything to say.
        tags = ["manual"],
    )

"""The macro behind //testing:defs.bzl."""

load("@rules_python//python:defs.bzl", "py_binary", "py_test")
load(":accelerator_test.bzl", "accelerator_test")
load(":expand.bzl", "expand")

_MAIN = Label("//testing/runner:main.py")
_RUNNER = Label("//testing/runner")

def trainer_test(
        *,
        name,
        srcs,
        tier,
        deps = None,
        hardware = None,
        devices = 1,
        data = None,
        env = None,
        args = None,
        allowed_skips = None,
        size = None,
        timeout = None,
        shard_count = None,
        tags = None,
        visibility = None):
    """Declares a pytest file, one target per kind of hardware it runs on.

    The CPU target has the bare name, others are NAME_gpu and NAME_trainium; a list of
    device counts adds the count: NAME_gpu_x2, NAME_gpu_x4.

    Args:
      name: name of the target.
      srcs: the test files, all named *_test.py; only these are collected.
      tier: "lint", "unit" (under 10 s), "subsystem" (under 60 s), "smoke" or "benchmark".
        Sets size and time limit; benchmarks run only when asked for by name.
      deps: what the tests import; pytest and the runner are added.
      hardware: any of "cpu", "gpu", "trainium"; ["cpu"] if left out.
      devices: how many devices (on cpu: cores) the tests use: a count, a list of counts, or a
        dict from hardware to either.
      data: files read at run time.
      env: environment of the tests.
      args: further arguments for pytest.
      allowed_skips: reasons for which a test may skip, exact or as fnmatch patterns. Any other
        skip fails.
      size: instead of the tier's.
      timeout: instead of the tier's: "short", "moderate", "long", "eternal".
      shard_count: into how many processes the tests are divided.
      tags: further tags.
      visibility: as for every target.
    """
    deps = deps or []
    expansion = expand(
        package = native.package_name(),
        name = name,
        srcs = srcs,
        tier = tier,
        hardware = hardware if hardware != None else ["cpu"],
        devices = devices,
        env = env or {},
        allowed_skips = allowed_skips or [],
        tags = tags or [],
    )
    if expansion.errors:
        fail("\n" + "\n".join(expansion.errors))

    for variant in expansion.variants:
        program = {
            "data": data or [],
            "deps": deps + [_RUNNER],
            "env": variant.env,
            "legacy_create_init": 0,
            "main": _MAIN,
            "srcs": srcs + [_MAIN],
            "target_compatible_with": variant.target_compatible_with,
        }
        test = {
            "args": args or [],
            "exec_properties": variant.exec_properties,
            "name": variant.name,
            "shard_count": shard_count,
            "size": size or variant.size,
            "tags": variant.tags,
            "timeout": timeout,
            "visibility": visibility,
        }
        if variant.hardware == "cpu":
            py_test(**(test | program))
        else:
            py_binary(
                name = variant.name + ".program",
                tags = ["manual"],
                testonly = True,
                visibility = ["//visibility:private"],
                **program
            )
            accelerator_test(
                hardware = variant.hardware,
                program = variant.name + ".program",
                target_compatible_with = variant.target_compatible_with,
                **test
            )

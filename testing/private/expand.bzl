"""What one declaration of a test means: pure functions, so that tests can check every tag and property."""

load("//tools/platforms:levels.bzl", "LEVELS", "RESOURCES", "constraint_name")

# tier -> size; Bazel derives the time limit from it: small 60 s, medium 300 s, large 900 s, enormous 3600 s.
TIERS = {
    "benchmark": "enormous",
    "lint": "small",
    "smoke": "large",
    "subsystem": "medium",
    "unit": "small",
}

HARDWARE = ["cpu", "gpu", "trainium"]

# `manual` keeps benchmarks out of //... and of test_suites: they are asked for by name. Then each runs alone.
_BENCHMARK_TAGS = ["exclusive-if-local", "manual"]

# What the expansion itself says with tags; a declaration that repeats or contradicts it is refused.
_RESERVED_TAGS = {tag: None for tag in TIERS.keys() + HARDWARE + ["manual", "multi-gpu", "requires-gpu-nvidia"]}
_RESERVED_TAG_PREFIXES = ["cpu:", "resources:"]
_RESERVED_ENV_PREFIX = "TRAINYARD_"

def _words(values):
    return ", ".join(["\"{}\"".format(v) for v in values])

def _check_name(name):
    if type(name) != "string" or not name:
        return ["name = {}: not a name; give the target a name such as \"packing_test\"".format(repr(name))]
    return []

def _check_srcs(srcs):
    if type(srcs) != "list":
        return ["srcs = {}: not a list; write srcs = [\"..._test.py\"]".format(repr(srcs))]
    if not srcs:
        return ["srcs = []: a test without test files; list the *_test.py files it runs"]
    errors = []
    for src in srcs:
        if not src.endswith("_test.py"):
            errors.append("srcs has \"{}\": only files named *_test.py; put helpers into a py_library and name it in deps".format(src))
        elif ":" in src or src.startswith("/"):
            errors.append("srcs has \"{}\": not a file of this package; declare it in the BUILD.bazel beside it".format(src))
    return errors

def _check_tier(tier):
    if tier in TIERS:
        return []
    return ["tier = {}: not one of {}; take \"unit\" for one unit without accelerator".format(repr(tier), _words(TIERS))]

def _check_hardware(hardware):
    if type(hardware) != "list":
        return ["hardware = {}: not a list; write hardware = [\"cpu\"]".format(repr(hardware))]
    if not hardware:
        return ["hardware = []: a test that runs nowhere; name one or more of {}".format(_words(HARDWARE))]
    errors = []
    for i, kind in enumerate(hardware):
        if kind not in HARDWARE:
            errors.append("hardware has {}: not one of {}".format(repr(kind), _words(HARDWARE)))
        elif kind in hardware[:i]:
            errors.append("hardware has \"{}\" twice; name it once and list its counts in devices".format(kind))
    return errors

def _check_count(hardware, count):
    """One number of devices of one kind."""
    if type(count) != "int":
        return ["devices of {} = {}: not a whole number; write devices = 2, or {{\"{}\": [2, 4]}}".format(hardware, repr(count), hardware)]
    if count < 1:
        return ["devices of {} = {}: a test needs at least 1".format(hardware, count)]
    if hardware in LEVELS and count > LEVELS[hardware][-1]:
        return ["devices of {} = {}: more than the {} of the largest platform; raise LEVELS in //tools/platforms:levels.bzl if there is such a host".format(
            hardware,
            count,
            LEVELS[hardware][-1],
        )]
    return []

def _check_devices(hardware, devices):
    """Every count, and that a dict names only hardware of this test."""
    errors = []
    if type(devices) == "dict":
        for kind in devices:
            if kind not in hardware:
                errors.append("devices names {}, which is not in hardware = {}; add it there or drop it".format(repr(kind), repr(hardware)))
    for kind in hardware:
        counts = _counts(devices, kind)
        if not counts:
            errors.append("devices of {} = []: give at least one count".format(kind))
        for i, count in enumerate(counts):
            errors.extend(_check_count(kind, count))
            if count in counts[:i]:
                errors.append("devices of {} lists {} twice".format(kind, count))
    return errors

def _check_tags(tags):
    errors = []
    for tag in tags:
        if tag in _RESERVED_TAGS or any([tag.startswith(p) for p in _RESERVED_TAG_PREFIXES]):
            errors.append("tags has \"{}\": trainer_test sets it from tier, hardware and devices; say it there".format(tag))
        elif tag == "exclusive":
            errors.append("tags has \"exclusive\": it disables remote execution; write \"exclusive-if-local\"")
    return errors

def _check_env(env):
    return [
        "env has \"{}\": names that start with {} belong to the test runner".format(name, _RESERVED_ENV_PREFIX)
        for name in env
        if name.startswith(_RESERVED_ENV_PREFIX)
    ]

def _check_allowed_skips(allowed_skips):
    if type(allowed_skips) != "list":
        return ["allowed_skips = {}: not a list of reasons".format(repr(allowed_skips))]
    return [
        "allowed_skips has {}: it would allow every skip; write the reason".format(repr(reason))
        for reason in allowed_skips
        if type(reason) != "string" or not reason.strip("* ")
    ]

def _counts(devices, hardware):
    """The numbers of devices asked for on one kind of hardware, as a list."""
    if type(devices) == "dict":
        devices = devices.get(hardware, 1)
    return devices if type(devices) == "list" else [devices]

def _is_list(devices, hardware):
    if type(devices) == "dict":
        devices = devices.get(hardware, 1)
    return type(devices) == "list"

def _target_name(name, hardware, count, several):
    """NAME on cpu, NAME_gpu elsewhere; a list of counts adds _xN."""
    return name + ("" if hardware == "cpu" else "_" + hardware) + ("_x{}".format(count) if several else "")

def _hardware_tags(hardware, count):
    if hardware == "cpu":
        return ["cpu"] + (["cpu:{}".format(count)] if count > 1 else [])
    tags = [hardware, "resources:{}:{}".format(RESOURCES[hardware], count)]
    if hardware == "gpu":
        tags.append("requires-gpu-nvidia")
        if count > 1:
            tags.append("multi-gpu")
    return tags

def _pool(hardware, count):
    return "multi-gpu" if hardware == "gpu" and count > 1 else hardware

def _compatible_with(hardware, count):
    """The constraint of the smallest machine that has the devices."""
    for level in LEVELS.get(hardware, []):
        if level >= count:
            return ["//tools/platforms:" + constraint_name(hardware, level)]
    return []

def _variant(package, name, srcs, tier, hardware, count, several, env, allowed_skips, tags):
    target = {
        "allowed_skips": allowed_skips,
        "files": [package + "/" + src if package else src for src in srcs],
        "tier": tier,
    }
    return struct(
        name = _target_name(name, hardware, count, several),
        hardware = hardware,
        devices = count,
        tags = sorted([tier] + _hardware_tags(hardware, count) + _BENCHMARK_TAGS * int(tier == "benchmark") + tags),
        size = TIERS[tier],
        # The prefix gives the property to the test action alone, not to actions that build the target.
        exec_properties = {"test.Pool": _pool(hardware, count)},
        target_compatible_with = _compatible_with(hardware, count),
        env = dict(
            # The same order of sets in each run.
            {"PYTHONHASHSEED": "0"} | env,
            TRAINYARD_DEVICES = str(count),
            TRAINYARD_HARDWARE = hardware,
            # Bazel expands $(...) in env; $$ is a plain dollar.
            TRAINYARD_TARGET = json.encode(target).replace("$", "$$"),
        ),
    )

def expand(*, package, name, srcs, tier, hardware, devices, env = {}, allowed_skips = [], tags = []):
    """Expands one declaration into its targets.

    Args:
      package: the package of the declaration, "" for the root.
      name: its name.
      srcs: its test files.
      tier: one of TIERS.
      hardware: a list of HARDWARE.
      devices: a count, a list of counts, or a dict from hardware to either.
      env: environment of the test.
      allowed_skips: reasons for which a test may skip, fnmatch patterns.
      tags: further tags.

    Returns:
      struct(errors, variants): messages about bad input, each with the mend, and else
      one struct per target: name, hardware, devices, tags, size, exec_properties,
      target_compatible_with, env.
    """
    errors = _check_name(name) + _check_srcs(srcs) + _check_tier(tier) + _check_hardware(hardware)
    if not errors:
        errors = _check_devices(hardware, devices)
    errors = errors + _check_tags(tags) + _check_env(env) + _check_allowed_skips(allowed_skips)
    if errors:
        where = "trainer_test(name = {}) in //{}: ".format(repr(name), package)
        return struct(errors = [where + e for e in errors], variants = [])
    return struct(errors = [], variants = [
        _variant(package, name, srcs, tier, kind, count, _is_list(devices, kind), env, allowed_skips, tags)
        for kind in hardware
        for count in _counts(devices, kind)
    ])

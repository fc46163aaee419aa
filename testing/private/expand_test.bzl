"""Tests of the expansion: exactly which targets a declaration makes."""

load("@bazel_skylib//lib:partial.bzl", "partial")
load("@bazel_skylib//lib:unittest.bzl", "asserts", "unittest")
load(":declaration_table.bzl", "BAD", "GOOD")
load(":expand.bzl", "expand")

PACKAGE = "pkg"

def expand_declaration(declaration):
    """Expands the arguments of a trainer_test.

    Args:
      declaration: a row of declaration_table.bzl.

    Returns:
      what expand returns.
    """
    return expand(package = PACKAGE, **({"devices": 1, "hardware": ["cpu"]} | declaration))

def _expand(**kwargs):
    return expand_declaration({"name": "a_test", "srcs": ["a_test.py"], "tier": "unit"} | kwargs)

def _two_gpus_test_impl(ctx):
    env = unittest.begin(ctx)
    expansion = _expand(hardware = ["gpu"], devices = 2, allowed_skips = ["costs $1"], env = {"A": "b"}, tags = ["x"])
    asserts.equals(env, [], expansion.errors)
    asserts.equals(env, [struct(
        name = "a_test_gpu",
        devices = 2,
        env = {
            "A": "b",
            "PYTHONHASHSEED": "0",
            "TRAINYARD_DEVICES": "2",
            "TRAINYARD_HARDWARE": "gpu",
            "TRAINYARD_TARGET": '{"allowed_skips":["costs $$1"],"files":["pkg/a_test.py"],"tier":"unit"}',
        },
        exec_properties = {"test.Pool": "multi-gpu"},
        hardware = "gpu",
        size = "small",
        tags = ["gpu", "multi-gpu", "requires-gpu-nvidia", "resources:gpu:2", "unit", "x"],
        target_compatible_with = ["//tools/platforms:--config=gpu_x2"],
    )], expansion.variants)
    return unittest.end(env)

_two_gpus_test = unittest.make(_two_gpus_test_impl)

def _hardware_test_impl(ctx):
    env = unittest.begin(ctx)
    expansion = _expand(tier = "smoke", hardware = ["cpu", "gpu", "trainium"], devices = {"cpu": 4, "gpu": [1, 3], "trainium": 32})
    asserts.equals(env, [
        ("a_test", ["cpu", "cpu:4", "smoke"], "cpu", []),
        ("a_test_gpu_x1", ["gpu", "requires-gpu-nvidia", "resources:gpu:1", "smoke"], "gpu", ["//tools/platforms:--config=gpu"]),
        # There is no host of three: the next larger one.
        ("a_test_gpu_x3", ["gpu", "multi-gpu", "requires-gpu-nvidia", "resources:gpu:3", "smoke"], "multi-gpu", ["//tools/platforms:--config=gpu_x4"]),
        ("a_test_trainium", ["resources:neuroncore:32", "smoke", "trainium"], "trainium", ["//tools/platforms:--config=trainium_x32"]),
    ], [
        (v.name, v.tags, v.exec_properties["test.Pool"], v.target_compatible_with)
        for v in expansion.variants
    ])
    return unittest.end(env)

_hardware_test = unittest.make(_hardware_test_impl)

def _tiers_test_impl(ctx):
    env = unittest.begin(ctx)
    expected = {
        "benchmark": ("enormous", ["benchmark", "cpu", "exclusive-if-local", "manual"]),
        "lint": ("small", ["cpu", "lint"]),
        "smoke": ("large", ["cpu", "smoke"]),
        "subsystem": ("medium", ["cpu", "subsystem"]),
        "unit": ("small", ["cpu", "unit"]),
    }
    for tier, (size, tags) in expected.items():
        variant = _expand(tier = tier).variants[0]
        asserts.equals(env, (size, tags), (variant.size, variant.tags))
    return unittest.end(env)

_tiers_test = unittest.make(_tiers_test_impl)

def _one_tag_per_fact_test_impl(ctx):
    env = unittest.begin(ctx)
    for declaration in GOOD:
        for variant in expand_declaration(declaration).variants:
            asserts.equals(env, len({tag: None for tag in variant.tags}), len(variant.tags))
    return unittest.end(env)

_one_tag_per_fact_test = unittest.make(_one_tag_per_fact_test_impl)

_WHERE = "trainer_test(name = \"a_test\") in //pkg: "

_MESSAGES = [
    ({"tier": "units"}, "tier = \"units\": not one of \"benchmark\", \"lint\", \"smoke\", \"subsystem\", \"unit\"; take \"unit\" for one unit without accelerator"),
    ({"hardware": ["tpu"]}, "hardware has \"tpu\": not one of \"cpu\", \"gpu\", \"trainium\""),
    ({"hardware": []}, "hardware = []: a test that runs nowhere; name one or more of \"cpu\", \"gpu\", \"trainium\""),
    ({"hardware": "gpu"}, "hardware = \"gpu\": not a list; write hardware = [\"cpu\"]"),
    ({"hardware": ["gpu", "gpu"]}, "hardware has \"gpu\" twice; name it once and list its counts in devices"),
    ({"devices": 0}, "devices of cpu = 0: a test needs at least 1"),
    ({"devices": "2"}, "devices of cpu = \"2\": not a whole number; write devices = 2, or {\"cpu\": [2, 4]}"),
    ({"devices": []}, "devices of cpu = []: give at least one count"),
    ({"devices": [2, 2]}, "devices of cpu lists 2 twice"),
    ({"devices": {"gpu": 2}}, "devices names \"gpu\", which is not in hardware = [\"cpu\"]; add it there or drop it"),
    (
        {"devices": 16, "hardware": ["gpu"]},
        "devices of gpu = 16: more than the 8 of the largest platform; raise LEVELS in //tools/platforms:levels.bzl if there is such a host",
    ),
    ({"srcs": []}, "srcs = []: a test without test files; list the *_test.py files it runs"),
    ({"srcs": ["a.py"]}, "srcs has \"a.py\": only files named *_test.py; put helpers into a py_library and name it in deps"),
    ({"srcs": ["//b:a_test.py"]}, "srcs has \"//b:a_test.py\": not a file of this package; declare it in the BUILD.bazel beside it"),
    ({"tags": ["gpu"]}, "tags has \"gpu\": trainer_test sets it from tier, hardware and devices; say it there"),
    ({"tags": ["smoke"]}, "tags has \"smoke\": trainer_test sets it from tier, hardware and devices; say it there"),
    ({"tags": ["manual"]}, "tags has \"manual\": trainer_test sets it from tier, hardware and devices; say it there"),
    ({"tags": ["cpu:4"]}, "tags has \"cpu:4\": trainer_test sets it from tier, hardware and devices; say it there"),
    ({"tags": ["resources:gpu:1"]}, "tags has \"resources:gpu:1\": trainer_test sets it from tier, hardware and devices; say it there"),
    ({"tags": ["exclusive"]}, "tags has \"exclusive\": it disables remote execution; write \"exclusive-if-local\""),
    ({"env": {"TRAINYARD_DEVICES": "9"}}, "env has \"TRAINYARD_DEVICES\": names that start with TRAINYARD_ belong to the test runner"),
    ({"allowed_skips": ["*"]}, "allowed_skips has \"*\": it would allow every skip; write the reason"),
    ({"allowed_skips": "slow"}, "allowed_skips = \"slow\": not a list of reasons"),
]

def _messages_test_impl(ctx):
    env = unittest.begin(ctx)
    for arguments, message in _MESSAGES:
        expansion = _expand(**arguments)
        asserts.equals(env, [_WHERE + message], expansion.errors)
        asserts.equals(env, [], expansion.variants)
    return unittest.end(env)

_messages_test = unittest.make(_messages_test_impl)

def _every_mistake_is_named_test_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(env, 3, len(_expand(tier = "units", srcs = [], tags = ["gpu"]).errors))
    for declaration in BAD:
        asserts.equals(env, 1, len(expand_declaration(declaration).errors), "of {}".format(declaration))
    for word in ["no-gpu", "gpu-docs", "cpus"]:
        asserts.equals(env, [], _expand(tags = [word]).errors)
    return unittest.end(env)

_every_mistake_is_named_test = unittest.make(_every_mistake_is_named_test_impl)

def expand_test_suite(name):
    """Declares the tests of this file.

    Args:
      name: of the suite.
    """
    unittest.suite(name, *[
        partial.make(test, size = "small", tags = ["cpu", "unit"])
        for test in [
            _two_gpus_test,
            _hardware_test,
            _tiers_test,
            _one_tag_per_fact_test,
            _messages_test,
            _every_mistake_is_named_test,
        ]
    ])

def expansions():
    """The expansion of each declaration of the table, for comparison with Python's reading.

    Returns:
      JSON: {"good": targets of each, "bad": messages about each}.
    """
    return json.encode_indent({
        "bad": [expand_declaration(d).errors for d in BAD],
        "good": [expand_declaration(d).variants for d in GOOD],
    }, indent = "  ")

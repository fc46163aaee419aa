"""Declarations whose meaning in Starlark and in Python (testing/runner/declaration.py) is compared: literals only."""

# Arguments of trainer_test.
GOOD = [
    {"name": "plain_test", "srcs": ["plain_test.py"], "tier": "unit"},
    {"name": "lint_test", "srcs": ["lint_test.py"], "tier": "lint", "hardware": ["cpu"], "devices": 1},
    {"name": "ranks_test", "srcs": ["a_test.py", "b_test.py"], "tier": "subsystem", "devices": 8},
    {"name": "gpu_only_test", "srcs": ["sub/a_test.py"], "tier": "smoke", "hardware": ["gpu"], "devices": 2},
    {"name": "all_test", "srcs": ["a_test.py"], "tier": "smoke", "hardware": ["cpu", "gpu", "trainium"], "devices": 2},
    {
        "name": "lists_test",
        "srcs": ["a_test.py"],
        "tier": "unit",
        "hardware": ["trainium", "cpu", "gpu"],
        "devices": {"cpu": 4, "gpu": [1, 2, 4], "trainium": [32]},
    },
    {"name": "list_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": ["cpu", "gpu"], "devices": [2, 4]},
    {"name": "partial_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": ["cpu", "gpu"], "devices": {"gpu": 2}},
    {
        "name": "speed_test",
        "srcs": ["a_test.py"],
        "tier": "benchmark",
        "env": {"A": "1"},
        "allowed_skips": ["costs $1", "no * here"],
    },
]

BAD = [
    {"name": "", "srcs": ["a_test.py"], "tier": "unit"},
    {"name": "bad_test", "srcs": [], "tier": "unit"},
    {"name": "bad_test", "srcs": "a_test.py", "tier": "unit"},
    {"name": "bad_test", "srcs": ["a.py"], "tier": "unit"},
    {"name": "bad_test", "srcs": [":a_test.py"], "tier": "unit"},
    {"name": "bad_test", "srcs": ["//b:a_test.py"], "tier": "unit"},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "units"},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": []},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": "gpu"},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": ["tpu"]},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "hardware": ["gpu", "gpu"]},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": 0},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": -1},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": "2"},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": True},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": []},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": [2, 2]},
    {"name": "bad_test", "srcs": ["a_test.py"], "tier": "unit", "devices": {"gpu": 2}},
]

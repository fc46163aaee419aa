"""For pytest without Bazel: tests are selected and judged by their trainer_test declarations (docs/testing.md)."""

pytest_plugins = ["testing.runner.plugin"]

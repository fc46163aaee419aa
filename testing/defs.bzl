"""How a test is declared. See docs/testing.md."""

load("//testing/private:trainer_test.bzl", _trainer_test = "trainer_test")

trainer_test = _trainer_test

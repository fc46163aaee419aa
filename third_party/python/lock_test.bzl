"""Tests of the lock's reader."""

load("@bazel_skylib//lib:partial.bzl", "partial")
load("@bazel_skylib//lib:unittest.bzl", "asserts", "unittest")
load(":lock.bzl", "normalize", "parse_lock")

_LOCK = """\
a-lib==1.0 \\
    --hash=sha256:22 \\
    --hash=sha256:11
    # via b-lib, c, -r common.in
b.Lib[extra]==2.0+cpu ; python_version >= '3.11' \\
    --hash=sha256:33
    # via -r cpu.in
c==3 \\
    --hash=sha256:44
"""

# The same lock in another order and with remarks.
_REORDERED = """\
# a remark
c==3 \\
    --hash=sha256:44
b.Lib[extra]==2.0+cpu ; python_version >= '3.11' \\
    --hash=sha256:33
    # via -r cpu.in

a-lib==1.0 \\
    --hash=sha256:11 \\
    --hash=sha256:22
    # via c, b-lib
"""

def _names_test_impl(ctx):
    env = unittest.begin(ctx)
    asserts.equals(env, "pydantic_core", normalize("Pydantic.Core[x]"))
    asserts.equals(env, "ruff", normalize(" ruff "))
    return unittest.end(env)

_names_test = unittest.make(_names_test_impl)

def _reads_pins_hashes_and_users_test_impl(ctx):
    env = unittest.begin(ctx)
    lock = parse_lock(_LOCK, "lock")
    asserts.equals(env, ["a_lib", "b_lib", "c"], sorted(lock))
    asserts.equals(env, "a-lib==1.0 --hash=sha256:11 --hash=sha256:22", lock["a_lib"].requirement)
    asserts.equals(env, "b.Lib[extra]==2.0+cpu --hash=sha256:33", lock["b_lib"].requirement)
    asserts.equals(env, "2.0+cpu", lock["b_lib"].version)
    asserts.equals(env, [], lock["a_lib"].deps)
    asserts.equals(env, ["a_lib"], lock["b_lib"].deps)
    asserts.equals(env, ["a_lib"], lock["c"].deps)
    return unittest.end(env)

_reads_pins_hashes_and_users_test = unittest.make(_reads_pins_hashes_and_users_test_impl)

def _order_and_remarks_do_not_matter_test_impl(ctx):
    env = unittest.begin(ctx)
    first = parse_lock(_LOCK, "lock")
    asserts.equals(env, first, parse_lock(_REORDERED, "lock"))
    return unittest.end(env)

_order_and_remarks_do_not_matter_test = unittest.make(_order_and_remarks_do_not_matter_test_impl)

def lock_test_suite(name):
    """Declares the tests of this file.

    Args:
      name: of the suite.
    """
    unittest.suite(name, *[
        partial.make(test, size = "small", tags = ["cpu", "unit"])
        for test in [
            _names_test,
            _reads_pins_hashes_and_users_test,
            _order_and_remarks_do_not_matter_test,
        ]
    ])

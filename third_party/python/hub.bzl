"""The public names of third-party packages: `@HUB//NAME`, whichever accelerator's lock holds it."""

def _hub_impl(rctx):
    rctx.file("BUILD.bazel", """\
load(":unavailable.bzl", "unavailable")

{targets}""".format(targets = "\n".join([
        'unavailable(\n    name = "_no_{}",\n    reason = {},\n    visibility = ["//:__subpackages__"],\n)\n'.format(accelerator, repr(reason))
        for accelerator, reason in rctx.attr.unavailable.items()
    ])))
    rctx.file("unavailable.bzl", """\
\"\"\"Fails when it is analysed, with the reason.\"\"\"

def _impl(ctx):
    fail(ctx.attr.reason)

unavailable = rule(implementation = _impl, attrs = {"reason": attr.string()})
""")
    for dist, encoded in rctx.attr.dists.items():
        branches = json.decode(encoded)
        for accelerator in rctx.attr.unavailable:
            branches[rctx.attr.conditions[accelerator]] = "//:_no_" + accelerator
        if len(branches) == 1 and "//conditions:default" in branches:
            actual = repr(branches["//conditions:default"])
        else:
            actual = "select(\n        {},\n        no_match_error = {},\n    )".format(
                repr(branches),
                repr("{} is not in the lock of this platform's accelerator: see third_party/python".format(dist)),
            )
        rctx.file(dist + "/BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

alias(
    name = "{dist}",
    actual = {actual},
)
""".format(actual = actual, dist = dist))

hub = repository_rule(
    implementation = _hub_impl,
    attrs = {
        "conditions": attr.string_dict(doc = "Accelerator to the config_setting that selects it."),
        "dists": attr.string_dict(doc = "Name to JSON: {condition: label of the wheel}."),
        "unavailable": attr.string_dict(doc = "Accelerator to the reason why it has no lock."),
    },
)

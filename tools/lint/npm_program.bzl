"""A program from a locked npm package, fetched through the machine's own npm configuration.

npm knows the registry, the proxy and the credentials of the machine, so this file names none. The archive that npm
hands over is used only if it has the locked digest.
"""

# Stands in for a program that cannot be had: the tests that need it turn red and say why, all others run.
_ABSENT = """\
#!/bin/sh
cat >&2 <<'END'
{}
END
exit 127
"""

def _platform(rctx):
    system = rctx.os.name.lower()
    machine = {"aarch64": "arm64", "x86_64": "amd64"}.get(rctx.os.arch, rctx.os.arch)
    return ("darwin_" if system.startswith("mac") else "linux_") + machine

def _npm(rctx):
    """The npm program; None without one, and then this rule runs again once there is one."""
    found = rctx.which("npm")
    if not found:
        for folder in (rctx.getenv("PATH") or "").split(":"):
            if folder.startswith("/"):
                rctx.watch(rctx.path(folder).get_child("npm"))
    return found

def _npm_program_impl(rctx):
    name = rctx.attr.program
    wanted = "{}@{}".format(rctx.attr.package, rctx.attr.version)
    rctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(["{}"])
""".format(name))
    npm = _npm(rctx)
    if not npm:
        rctx.file(name, _ABSENT.format(
            "{} is missing: npm, which fetches {}, is not on PATH.\n".format(name, wanted) +
            "Install npm (Debian: apt-get install npm) and run again.",
        ))
        return
    result = rctx.execute([npm, "pack", "--loglevel=error", wanted], timeout = 600)
    archive = result.stdout.strip().split("\n")[-1]
    if result.return_code or not archive.endswith(".tgz"):
        rctx.file(name, _ABSENT.format(
            "{} is missing: `npm pack {}` failed: {}{}\n".format(name, wanted, result.stdout, result.stderr.strip()) +
            "Check the network and npm's configuration (`npm ping`), then: ./bazelw fetch --force --repo=@{}".format(name),
        ))
        return
    unpacked = rctx.download_and_extract(
        url = "file://{}".format(rctx.path(archive)),
        integrity = rctx.attr.integrity,
        output = "unpacked",
        allow_fail = True,
    )
    if not unpacked.success:
        fail(("The archive that npm gives for {} does not have the locked digest {}; nothing of it is used.\n" +
              "If the new one is right, lock `npm view {} dist.integrity` in MODULE.bazel.").format(
            wanted,
            rctx.attr.integrity,
            wanted,
        ))
    program = rctx.path("unpacked/package/{}-{}".format(name, _platform(rctx)))
    if not program.exists:
        fail("{} has no program for {}; it has {}".format(
            wanted,
            _platform(rctx),
            [entry.basename for entry in program.dirname.readdir()],
        ))
    rctx.execute(["mv", program, rctx.path(name)])
    rctx.execute(["chmod", "+x", rctx.path(name)])
    rctx.delete("unpacked")
    rctx.delete(archive)

npm_program = repository_rule(
    doc = "`:PROGRAM`, the file `PROGRAM-SYSTEM_MACHINE` of an npm package.",
    implementation = _npm_program_impl,
    attrs = {
        "integrity": attr.string(mandatory = True, doc = "`npm view PACKAGE@VERSION dist.integrity`."),
        "package": attr.string(mandatory = True),
        "program": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
    },
    environ = ["PATH"],
)

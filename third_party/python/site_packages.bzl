"""The content of a wheel as a test finds it: a source directory, or where tests run elsewhere, its files."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")

def _site_packages_impl(ctx):
    content = ctx.file.directory
    if ctx.attr._upload[BuildSettingInfo].value:
        content = ctx.actions.declare_directory(ctx.file.directory.basename)
        ctx.actions.run_shell(
            # Not the directory, of which Bazel would say that it cannot see into it.
            inputs = [ctx.file.stamp],
            outputs = [content],
            # Bazel looks through links and copies nothing. It makes outputs read-only, but not what is behind a link in
            # a directory: here hard links into uv's cache. (Hence one per entry. symlink() takes a source directory for
            # a file and refuses.)
            command = 'find "$(readlink -f "$1")" -mindepth 1 -maxdepth 1 -exec ln -s -t "$2" {} +',
            arguments = [ctx.file.directory.path, content.path],
            # The links are good for this machine alone.
            execution_requirements = {"local": "", "no-cache": ""},
            mnemonic = "SitePackages",
            progress_message = "Reading the files of %{label}",
        )
    files = [content, ctx.file.stamp]
    return [DefaultInfo(files = depset(files), runfiles = ctx.runfiles(files))]

site_packages = rule(
    implementation = _site_packages_impl,
    attrs = {
        "directory": attr.label(allow_single_file = True, doc = "The source directory.", mandatory = True),
        "stamp": attr.label(allow_single_file = True, doc = "Says what is in it.", mandatory = True),
        "_upload": attr.label(default = "//third_party/python:upload"),
    },
    doc = """The directory and its stamp as runfiles.

Bazel 7 takes a source directory for one file: locally that is one link, whatever is in it. To a remote worker it would
upload the content to another place than the runfiles, where no test finds it (bazelbuild/bazel#11495, mended in 8.3). With
--//third_party/python:upload the directory is an output, whose files Bazel knows one by one, at the same place.
""",
)

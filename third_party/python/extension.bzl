"""Module extensions: the machine's Python, and one repository per locked wheel behind hubs of public names."""

load(":hub.bzl", "hub")
load(":interpreter.bzl", "host_python")
load(":lock.bzl", "parse_lock")
load(":wheel.bzl", "wheel")

_DEFAULT = "//conditions:default"

def _condition(accelerator):
    return _DEFAULT if accelerator == "cpu" else str(Label("//tools/platforms:" + accelerator))

def _python_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.host:
            host_python(name = "host_python", python_version = tag.version)

python = module_extension(
    implementation = _python_impl,
    tag_classes = {
        "host": tag_class(
            attrs = {"version": attr.string(mandatory = True)},
            doc = "The machine's Python of this version as `@host_python//:toolchain`.",
        ),
    },
)

def _make_hub(mctx, name, tags, edges, sources, unavailable, bases):
    """Declares the wheels of a hub's locks and the hub; returns {dist: requirement} of its CPU lock."""
    branches = {}
    requirements = {}
    for tag in tags:
        dists = parse_lock(mctx.read(tag.lock), str(tag.lock))
        base = bases.get(tag.base, {})
        for dist, row in dists.items():
            if tag.accelerator == "cpu":
                requirements[dist] = row.requirement
            if dist in base:
                if base[dist].partition(" ")[0] != row.requirement.partition(" ")[0]:
                    fail("{}: {} differs from {} of @{}: both would be imported; update the lock: ./bazelw run //tools/bazel:lock".format(
                        tag.lock,
                        row.requirement.partition(" ")[0],
                        base[dist].partition(" ")[0],
                        tag.base,
                    ))
                label = "@{}//{}".format(tag.base, dist)
            else:
                repository = "_".join([name, tag.accelerator, dist])
                label = "@{}//:pkg".format(repository)
                wheel(
                    name = repository,
                    deps = ["@{}//{}".format(name, dep) for dep in sorted(row.deps + edges.get(dist, []))],
                    dist = row.name,
                    python_version = tag.python_version,
                    requirement = row.requirement,
                    setuptools = dists["setuptools"].requirement if dist in sources else "",
                    version = row.version,
                )
            branches.setdefault(dist, {})[_condition(tag.accelerator)] = label
    hub(
        name = name,
        conditions = {accelerator: _condition(accelerator) for accelerator in unavailable},
        dists = {dist: json.encode(labels) for dist, labels in branches.items()},
        unavailable = unavailable,
    )
    return requirements

def _pip_impl(mctx):
    hubs = {}
    edges = {}
    sources = {}
    unavailable = {}
    for module in mctx.modules:
        for tag in module.tags.lock:
            hubs.setdefault(tag.hub, []).append(tag)
        for tag in module.tags.edge:
            edges.setdefault(tag.hub, {}).setdefault(tag.dist, []).append(tag.dep)
        for tag in module.tags.source:
            sources.setdefault(tag.hub, []).append(tag.dist)
        for tag in module.tags.unavailable:
            unavailable.setdefault(tag.hub, {})[tag.accelerator] = tag.reason
    bases = {}
    for name, tags in hubs.items():
        bases[name] = _make_hub(mctx, name, tags, edges.get(name, {}), sources.get(name, []), unavailable.get(name, {}), bases)

pip = module_extension(
    implementation = _pip_impl,
    tag_classes = {
        "edge": tag_class(
            attrs = {
                "dep": attr.string(mandatory = True),
                "dist": attr.string(mandatory = True),
                "hub": attr.string(mandatory = True),
            },
            doc = "A dependency that `dist` has and does not declare.",
        ),
        "lock": tag_class(
            attrs = {
                "accelerator": attr.string(default = "cpu", doc = "cpu, or a config_setting of //tools/platforms."),
                "base": attr.string(doc = "A hub declared before; a package that it has too is taken from there."),
                "hub": attr.string(mandatory = True),
                "lock": attr.label(mandatory = True),
                "python_version": attr.string(default = "3.11"),
            },
            doc = "One locked requirements file; several of a hub are told apart by accelerator.",
        ),
        "source": tag_class(
            attrs = {
                "dist": attr.string(mandatory = True),
                "hub": attr.string(mandatory = True),
            },
            doc = "A distribution that has no wheel: it is built here, with the lock's setuptools.",
        ),
        "unavailable": tag_class(
            attrs = {
                "accelerator": attr.string(mandatory = True),
                "hub": attr.string(mandatory = True),
                "reason": attr.string(mandatory = True),
            },
            doc = "An accelerator that has no lock: what depends on the hub there fails with the reason.",
        ),
    },
)

"""Reads a lock as `uv pip compile --generate-hashes --annotation-style=line` writes it."""

def normalize(name):
    """A distribution's name as a label part: `pydantic-core[x]` -> `pydantic_core`."""
    return name.strip().partition("[")[0].lower().replace("-", "_").replace(".", "_")

def parse_lock(text, where):
    """Reads the distributions of a lock.

    Args:
      text: the lock; its `# via` comments are the dependency graph.
      where: the lock's name, for messages.

    Returns:
      {normalized name: struct(name, version, requirement, deps)}; `requirement` is the line to install it by, with
      its hashes sorted, so that the order of the file does not matter; `deps` are normalized names.
    """
    rows = {}
    users = {}
    current = None
    for raw in text.replace("\r", "").split("\n"):
        line = raw.strip().removesuffix("\\").strip()
        if line.startswith("--hash="):
            rows[current]["hashes"].append(line)
        elif line.startswith("# via ") and current:
            users[current] = [normalize(user) for user in line[len("# via "):].split(",") if "-r " not in user]
        elif line and not line.startswith("#"):
            requirement = line.partition(";")[0].strip()
            name, pin, version = requirement.partition("==")
            if not pin:
                fail("{}: {!r} pins no version; update the lock: ./bazelw run //tools/bazel:lock".format(where, line))
            current = normalize(name)
            rows[current] = {"hashes": [], "name": name.strip(), "requirement": requirement, "version": version.strip()}
            users[current] = []

    deps = {name: [] for name in rows}
    for name, names in users.items():
        for user in names:
            if user in deps and user != name:
                deps[user].append(name)

    for name, row in rows.items():
        if not row["hashes"]:
            fail("{}: {} has no hash; update the lock: ./bazelw run //tools/bazel:lock".format(where, name))
    return {
        name: struct(
            name = row["name"],
            version = row["version"],
            requirement = " ".join([row["requirement"]] + sorted(row["hashes"])),
            deps = sorted(deps[name]),
        )
        for name, row in rows.items()
    }

import pytest

from tools.affected.explain import Evidence, difference, distances, is_label_of, path_from_change

# //app:t -> //app:lib -> //base:lib -> //base:lib.py; //app:t -> //data:in.txt; //other:t stands alone.
EDGES = {
    "//app:t": ("//app:lib", "//data:in.txt"),
    "//app:lib": ("//base:lib",),
    "//base:lib": ("//base:lib.py",),
    "//other:t": ("//other:lib",),
}
OWN = dict.fromkeys([*EDGES, "//base:lib.py", "//data:in.txt", "//other:lib"], "1")


def evidence(differing=(), own=None, base_own=None):
    return Evidence(
        own={**OWN, **(own or {})},
        edges=EDGES,
        base_own=OWN if base_own is None else base_own,
        hidden=frozenset(),
        differing=frozenset(differing),
        surroundings=False,
    )


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("//lib:a.py", "lib/a.py"),
        ("//lib:sub/a.py", "lib/sub/a.py"),
        ("//lib/sub:a.py", "lib/sub/a.py"),
        ("//:a.py", "a.py"),
        ("//:sub/a.py", "sub/a.py"),
        ("@@//lib:a.py", "lib/a.py"),
        ("@wheels//:stamp", "external/wheels/stamp"),
        ("@@rules~1.0~pip~tqdm//:stamp", "external/rules~1.0~pip~tqdm/stamp"),
        ("@tqdm//pkg:stamp", "external/_main~pip~tqdm/pkg/stamp"),
        ("@tqdm//:stamp", "external/_main+pip+tqdm/stamp"),
    ],
)
def test_label_of_a_path(label, path):
    assert is_label_of(label, path)


@pytest.mark.parametrize(
    ("label", "path"),
    [
        ("//lib:a.py", "lib/b.py"),
        ("//lib:a.py", "a.py"),
        ("//:a.py", "lib/a.py"),
        ("//lib:a.py", "external/x/lib/a.py"),
        ("@x//lib:a.py", "lib/a.py"),
        ("@qdm//:stamp", "external/pip~tqdm/stamp"),
        ("@a.c//:stamp", "external/abc/stamp"),
        ("@tqdm//:stamp", "external/tqdm/other/stamp"),
        ("no label", "no label"),
    ],
)
def test_not_the_label_of_a_path(label, path):
    assert not is_label_of(label, path)


def test_changed():
    found = evidence(
        ["base/lib.py", "app/lib.py"], own={"//app:lib": "2", "//app:t": "2"}, base_own={**OWN, "//app:t": "1"}
    )
    assert found.changed() == {"//app:lib": "declaration", "//app:t": "declaration", "//base:lib.py": "content"}
    new = {label: digest for label, digest in OWN.items() if label != "//other:t"}
    assert evidence(base_own=new).changed() == {"//other:t": "new"}
    assert evidence().changed() == {}


def test_path_from_a_file():
    assert path_from_change(evidence(["base/lib.py"]), "//app:t") == (
        "//base:lib.py",
        "//base:lib",
        "//app:lib",
        "//app:t",
    )


def test_shortest_path():
    both = evidence(["base/lib.py", "data/in.txt"])
    assert path_from_change(both, "//app:t") == ("//data:in.txt", "//app:t")


def test_path_of_what_changed_itself():
    assert path_from_change(evidence(["base/lib.py"], own={"//app:t": "2"}), "//app:t") == ("//app:t",)


def test_no_path():
    assert path_from_change(evidence(["base/lib.py"]), "//other:t") == ()
    assert path_from_change(evidence(), "//app:t") == ()
    assert path_from_change(evidence(["base/lib.py"]), "//unknown:t") == ()


def test_distances():
    tests = ["//app:t", "//other:t"]
    assert distances(evidence(["base/lib.py"]), tests) == {"//app:t": 3}
    assert distances(evidence(["base/lib.py", "data/in.txt"]), tests) == {"//app:t": 1}
    assert distances(evidence(own={"//app:t": "2", "//other:lib": "2"}), tests) == {"//app:t": 0, "//other:t": 1}
    assert distances(evidence(), tests) == {}


def test_long_chain():
    edges = {f"//:{i}": (f"//:{i + 1}",) for i in range(5000)}
    own = dict.fromkeys([*edges, "//:5000"], "1")
    found = Evidence(own, edges, {**own, "//:5000": "2"}, frozenset(), frozenset(), surroundings=False)
    assert len(path_from_change(found, "//:0")) == 5001
    assert distances(found, ["//:0"]) == {"//:0": 5000}


def test_difference():
    before = """\
# app/BUILD.bazel:3:8
py_library(
  name = "lib",
  deps = ["//a:a"],
)
# Rule lib instantiated at (most recent call last):
"""
    moved = before.replace(":3:8", ":9:8")
    assert difference(before, moved.replace("//a:a", "//b:b")).splitlines() == [
        "--- base",
        "+++ head",
        "@@ -2,3 +2,3 @@",
        '   name = "lib",',
        '-  deps = ["//a:a"],',
        '+  deps = ["//b:b"],',
        " )",
    ]
    assert difference(before, moved) == ""

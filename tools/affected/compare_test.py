import pytest

from tools.affected import action_graph, compare
from tools.affected.compare import Side
from tools.affected.fake_answers import Actions


def side(build, contents=(), **known) -> Side:
    """One side: what `build` builds, its sources' contents being 1 unless `contents` says otherwise."""
    actions = Actions()
    build(actions)
    return Side(action_graph.read(actions.answer()), lambda path: dict(contents).get(path, "1"), **known)


def plain(actions, key="test", gen="gen", manifest="m", extra=(), **fields):
    """//:t reads a.py, lib.py, what //:gen makes of in.txt, and its runfiles."""
    actions.action("Genrule", "//:gen", [actions.files("in.txt")], ["bazel-out/out.txt"], key=gen)
    lib = actions.files("lib.py", "bazel-out/out.txt")
    actions.action("SourceSymlinkManifest", "//:t", [], ["bazel-out/t.manifest"], key=manifest)
    runfiles = actions.files("bazel-out/t.manifest", *extra)
    actions.test("//:t", [actions.files("a.py", inner=[lib]), runfiles], key=key, **fields)


def regrouped(actions):
    """The same, in one flat set and in another order; with an unrelated test before."""
    actions.test("//:other", [actions.files("other.py")])
    actions.action("SourceSymlinkManifest", "//:t", [], ["bazel-out/t.manifest"], key="m")
    actions.action("Genrule", "//:gen", [actions.files("in.txt")], ["bazel-out/out.txt"], key="gen")
    actions.test("//:t", [actions.files("bazel-out/t.manifest", "bazel-out/out.txt", "lib.py", "a.py")], key="test")


def same(first: Side, second: Side, layout=True) -> bool:
    answers = {compare.same(*sides, "//:t", layout=layout) for sides in ((first, second), (second, first))}
    (answer,) = answers
    return answer


def changed(**fields) -> Side:
    return side(lambda actions: plain(actions, **fields))


def test_same():
    assert same(side(plain), side(plain))


def test_grouping_and_order_of_inputs_do_not_count():
    assert same(side(plain), side(regrouped))


@pytest.mark.parametrize("path", ["a.py", "lib.py", "in.txt"])
@pytest.mark.parametrize("other", [plain, regrouped])
def test_content_counts(path, other):
    assert not same(side(plain), side(other, {path: "2"}))


def test_content_of_what_the_test_does_not_read_does_not_count():
    assert same(side(regrouped), side(regrouped, {"other.py": "2"}))


def test_contents_that_change_places_count():
    assert not same(side(plain, {"a.py": "2"}), side(plain, {"lib.py": "2"}))


def test_another_command_for_an_input_counts():
    assert not same(side(plain), changed(gen="another command"))


def test_further_input_counts():
    assert not same(side(plain), changed(extra=["data.txt"]))


def test_input_that_is_there_twice_counts_once():
    assert same(side(plain), changed(extra=["a.py"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"arguments": ["-v"]},
        {"environment": {"A": "1"}},
        {"execution": {"requires-network": ""}},
        {"execution_platform": "//platforms:gpu"},
    ],
)
def test_facts_of_the_test_count(fields):
    assert not same(side(plain), changed(**fields))


def test_order_of_arguments_counts():
    assert not same(changed(arguments=["a", "b"]), changed(arguments=["b", "a"]))


def test_key_of_the_test_is_compared_apart():
    """It holds the tags."""
    before, after = side(plain), changed(key="another")
    assert same(before, after)
    assert compare.keys(before.graph, "//:t") == ("test",)
    assert compare.keys(after.graph, "//:t") == ("another",)


def test_layout_counts_when_asked():
    assert same(side(plain), changed(manifest="m2"), layout=False)
    assert not same(side(plain), changed(manifest="m2"), layout=True)


def test_known_layout_stands_for_the_key():
    before, after = side(plain), changed(manifest="m2")
    said = {"bazel-out/t.manifest": "a.py"}
    assert same(before.with_layouts(said), after.with_layouts(said))
    assert not same(before.with_layouts(said), after.with_layouts({"bazel-out/t.manifest": "a.py b.py"}))


def test_known_product_stands_for_what_made_it():
    before, after = side(plain), side(lambda actions: plain(actions, gen="other"), {"in.txt": "2"})
    made = {"bazel-out/out.txt": "x"}
    assert same(before.with_products(made), after.with_products(made))
    assert not same(before.with_products(made), after.with_products({"bazel-out/out.txt": "y"}))
    assert not same(before.with_products({"bazel-out/another": "x"}), after.with_products({"bazel-out/another": "x"}))


def test_content_beside_a_known_product_counts():
    made = {"bazel-out/out.txt": "x"}
    assert not same(side(plain).with_products(made), side(plain, {"lib.py": "2"}).with_products(made))


def test_differing_products():
    before = side(plain)
    assert compare.differing_products(before, side(regrouped), ["//:t"]) == {}
    assert compare.differing_products(before, side(plain, {"lib.py": "2"}), ["//:t"]) == {}
    differing = {"//:gen": ["bazel-out/out.txt"]}
    assert compare.differing_products(before, side(plain, {"in.txt": "2"}), ["//:t"]) == differing
    assert compare.differing_products(before, changed(gen="other"), ["//:t"]) == differing


def test_product_of_a_program_in_an_external_folder_is_left_out():
    def build(actions):
        tool = actions.files("external/tool/site", "in.txt")
        actions.action("Genrule", "//:gen", [tool], ["bazel-out/out.txt"])
        actions.test("//:t", [actions.files("bazel-out/out.txt")])

    folder = {"external/tool/site": "folder"}
    sides = side(build, folder), side(build, {**folder, "in.txt": "2"})
    assert compare.differing_products(*sides, ["//:t"]) == {}


def shards(count):
    def build(actions):
        for i in range(count):
            actions.action("TestRunner", "//:t", [actions.files("a.py")], [f"bazel-out/{i}.log"], key=f"{i}")

    return build


def test_shards():
    assert same(side(shards(3)), side(shards(3)))
    assert not same(side(shards(2)), side(shards(3)))
    assert not same(side(shards(3)), side(shards(3), {"a.py": "2"}))
    assert compare.keys(side(shards(2)).graph, "//:t") == ("0", "1")


def test_deep_chains():
    def build(actions):
        for i in range(3000):
            inputs = [actions.files(f"bazel-out/{i}" if i else "in.txt")]
            actions.action("Genrule", "//:gen", inputs, [f"bazel-out/{i + 1}"])
        actions.test("//:t", [actions.files("bazel-out/3000")])

    def grouped(actions):
        build(actions)
        actions.test("//:t2", [actions.files(inner=[actions.files("bazel-out/3000")])])

    assert same(side(build), side(grouped))
    assert not same(side(build), side(grouped, {"in.txt": "2"}))


# What is told.


def changes(before: Side, after: Side) -> tuple[str, ...]:
    return compare.changes(before, after, "//:t")


def test_changes_name_facts():
    before, after = changed(arguments=["-v"], environment={"A": "1"}), changed(environment={"A": "2"})
    assert changes(before, after) == ("+ environment: A=2", "- argument: -v", "- environment: A=1")


def test_changes_name_files():
    assert changes(side(plain), side(plain, {"in.txt": "2"})) == ("in.txt",)
    assert changes(side(plain), changed(extra=["data.txt"])) == ("+ data.txt",)
    assert changes(changed(extra=["data.txt"]), side(plain)) == ("- data.txt",)


def test_changes_name_actions():
    assert changes(side(plain), changed(gen="other")) == ("Genrule: out.txt",)


def test_changes_count_shards():
    assert changes(side(shards(2)), side(shards(3)))[0] == "test actions: 2 -> 3"


def test_changes_name_a_few():
    found = changes(side(plain), changed(extra=[f"{i}.txt" for i in range(20)]))
    assert len(found) == 8
    assert found[-1] == "... and 13 more"


def test_changes_are_never_empty():
    assert changes(side(plain), changed(key="large")) == ("settings of the test: size, time limit, ...",)


# Contents alone.


def test_content_changes():
    graph = side(regrouped).graph
    assert compare.content_changes(graph, set()) == {}
    assert compare.content_changes(graph, {"README.md"}) == {}
    assert compare.content_changes(graph, {"other.py"}) == {"//:other": ("other.py",)}
    assert compare.content_changes(graph, {"lib.py", "in.txt"}) == {"//:t": ("in.txt", "lib.py")}


def test_content_changes_without_what_programs_make():
    graph = side(plain).graph
    assert compare.content_changes(graph, {"in.txt"}, through_programs=False) == {}
    assert compare.content_changes(graph, {"in.txt", "a.py"}, through_programs=False) == {"//:t": ("a.py",)}


def test_many_content_changes():
    paths = [f"{i:02}.py" for i in range(20)]
    graph = side(lambda actions: actions.test("//:t", [actions.files(*paths)])).graph
    found = compare.content_changes(graph, set(paths))["//:t"]
    assert found == (*paths[:7], "... and 13 more")


def test_products_that_change_places_count():
    def build(actions):
        for name in ("x", "y"):
            actions.action("Genrule", f"//:{name}", [actions.files(f"{name}.in")], [f"bazel-out/{name}"])
        actions.test("//:t", [actions.files("bazel-out/x", "bazel-out/y")])

    before = side(build).with_products({"bazel-out/x": "1", "bazel-out/y": "2"})
    after = side(build).with_products({"bazel-out/x": "2", "bazel-out/y": "1"})
    assert not same(before, after)


# At sight: head without the actions that an answer leaves out.


def program(actions, stub=True, outputs=("bazel-out/t.sh",), also=(), files=("a.py", "lib.py"), **fields):
    """//:t reads its files, a stub made from a template, and its runfiles, which hold both."""
    if stub:
        actions.action("TemplateExpand", "//:t", [actions.files("template.txt")], outputs)
    actions.action("Genrule", "//:gen", [actions.files("in.txt")], ["bazel-out/out.txt", "bazel-out/more.txt"])
    everything = actions.files(*files, "bazel-out/t.sh", "bazel-out/out.txt", *also)
    actions.action("Middleman", "//:t", [everything], ["bazel-out/t-runfiles"])
    actions.test("//:t", [actions.files("bazel-out/t-runfiles", "bazel-out/t.sh")], **fields)


def at_sight(contents=(), *, base=program, **fields) -> tuple[str, ...]:
    head = side(lambda actions: program(actions, stub=False, **fields), contents)
    return compare.differs_at_sight(side(base), head.graph, head.digest, "//:t")


def test_nothing_differs_at_sight():
    assert at_sight() == ()
    assert at_sight(files=("lib.py", "a.py")) == ()


def test_stub_that_makes_more_than_the_test_reads_does_not_differ():
    assert at_sight(base=lambda actions: program(actions, outputs=["bazel-out/t.sh", "bazel-out/t.temp"])) == ()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"files": ("a.py", "lib.py", "b.py")}, ("+ b.py",)),
        ({"files": ("a.py",)}, ("- lib.py",)),
        ({"contents": {"lib.py": "2"}}, ("lib.py",)),
        ({"arguments": ["-v"]}, ("+ argument: -v",)),
        ({"environment": {"A": "1"}}, ("+ environment: A=1",)),
        ({"also": ["bazel-out/new.txt"]}, ("what programs make for it",)),
    ],
)
def test_differs_at_sight(fields, told):
    assert at_sight(**fields) == told


def test_what_no_program_makes_any_more_differs_at_sight():
    def more(actions):
        actions.action("Genrule", "//:old", [], ["bazel-out/old.txt"])
        program(actions, also=["bazel-out/old.txt"])

    assert at_sight(base=more) == ("what programs make for it",)


def test_content_behind_a_program_is_not_seen_at_sight():
    assert at_sight({"in.txt": "2", "template.txt": "2"}) == ()


def test_number_of_shards_differs_at_sight():
    def shards(actions):
        program(actions)
        program(actions)

    assert at_sight(base=shards) == ("test actions: 2 -> 1",)

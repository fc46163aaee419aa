import json

from tools.affected import action_graph
from tools.affected.action_graph import ActionGraph
from tools.affected.fake_answers import Actions


def reads(graph: ActionGraph, label: str) -> set[str]:
    """Paths of the sources below a test."""
    found, stack = set(), list(graph.tests[label])
    while stack:
        node = graph.nodes[stack.pop()]
        found |= {graph.sources[i] for i in node.sources}
        stack += node.below
    return found


def test_sources_direct_and_transitive():
    actions = Actions()
    lib = actions.files("lib/lib.py")
    actions.test("//app:t1", [actions.files("app/t1.py", inner=[lib])])
    actions.test("//app:t2", [actions.files("app/t2.py"), lib])
    graph = action_graph.read(actions.answer())
    assert graph.tests.keys() == {"//app:t1", "//app:t2"}
    assert reads(graph, "//app:t1") == {"app/t1.py", "lib/lib.py"}
    assert reads(graph, "//app:t2") == {"app/t2.py", "lib/lib.py"}


def test_generated_input_stands_for_what_it_is_made_from():
    actions = Actions()
    raw = actions.files("lib/in.txt")
    actions.action("Genrule", "//lib:gen", [raw], ["bazel-out/lib/mid.txt"], key="k")
    actions.action("Genrule", "//lib:gen2", [actions.files("bazel-out/lib/mid.txt")], ["bazel-out/lib/out.txt"])
    actions.test("//app:t1", [actions.files("bazel-out/lib/out.txt")])
    graph = action_graph.read(actions.answer())
    assert reads(graph, "//app:t1") == {"lib/in.txt"}
    assert graph.sources == ["lib/in.txt"]
    (made,) = (node for node in graph.nodes if node.key == "k")
    assert (made.mnemonic, made.outputs, made.facts) == ("Genrule", ("bazel-out/lib/mid.txt",), ())


def test_dependencies_stand_before_what_needs_them():
    actions = Actions()
    actions.test("//app:t1", [actions.files("bazel-out/b", inner=[actions.files("bazel-out/a")])])
    actions.action("B", "//b", [actions.files("bazel-out/a")], ["bazel-out/b"])
    actions.action("A", "//a", [actions.files("a.txt")], ["bazel-out/a"])
    graph = action_graph.read(actions.answer())
    assert all(below < place for place, node in enumerate(graph.nodes) for below in node.below)
    assert [node.mnemonic for node in graph.nodes if node.mnemonic] == ["A", "B", "TestRunner"]


def test_the_places_of_runfiles_belong_to_a_test():
    actions = Actions()
    actions.action("SourceSymlinkManifest", "//app:t1", [], ["bazel-out/t1.runfiles_manifest"], key="places")
    actions.action("SourceSymlinkManifest", "//app:t2", [], ["bazel-out/t2.runfiles_manifest"])
    actions.test("//app:t1", [actions.files("app/t1.py")])
    graph = action_graph.read(actions.answer())
    (test,) = graph.tests["//app:t1"]
    below = [graph.nodes[i] for i in graph.nodes[test].below]
    assert [node.key for node in below if node.mnemonic] == ["places"]
    assert "bazel-out/t2.runfiles_manifest" not in {output for node in graph.nodes for output in node.outputs}


def test_what_no_test_needs_is_left_out():
    actions = Actions()
    actions.action("PyZip", "//app:t1", [actions.files("big.txt")], ["bazel-out/t1.zip"])
    actions.test("//app:t1", [actions.files("app/t1.py")])
    graph = action_graph.read(actions.answer())
    assert graph.sources == ["app/t1.py"]
    assert [node.mnemonic for node in graph.nodes] == ["", "TestRunner"]


def test_shared_set_of_files_is_one_node():
    actions = Actions()
    shared = actions.files(*(f"lib/{i}.py" for i in range(50)))
    for i in range(20):
        actions.test(f"//app:t{i}", [shared])
    graph = action_graph.read(actions.answer())
    assert len(graph.nodes) == 21


def test_shards():
    actions = Actions()
    inputs = [actions.files("app/t.py")]
    for shard in range(3):
        actions.action("TestRunner", "//app:t", inputs, [f"bazel-out/shard_{shard}/test.log"], key=f"shard {shard}")
    graph = action_graph.read(actions.answer())
    assert [graph.nodes[i].key for i in graph.tests["//app:t"]] == ["shard 0", "shard 1", "shard 2"]


def test_facts_of_a_test():
    actions = Actions()
    actions.test(
        "//app:t",
        arguments=["run", "-v"],
        environment={"B": "2", "A": "1=x"},
        execution={"local": ""},
        execution_platform="@platforms//host",
    )
    graph = action_graph.read(actions.answer())
    assert graph.nodes[graph.tests["//app:t"][0]].facts == (
        "argument: run",
        "argument: -v",
        "environment: A=1=x",
        "environment: B=2",
        "execution: local=",
        "platform: @platforms//host",
    )


def test_answer_in_pieces_of_all_sizes():
    """The size before each piece takes one, two or three bytes."""
    actions = Actions()
    paths = ["x", "y" * 127, "z" * 128, "w" * 16_000, "v" * 40_000]
    actions.test("//app:t", [actions.files(*paths)])
    graph = action_graph.read(actions.answer())
    assert reads(graph, "//app:t") == set(paths)


def test_order_of_pieces_does_not_matter():
    """Actions may come before the files and targets that they name."""
    first, second = Actions(), Actions()
    for actions in (first, second):
        actions.test("//app:t", [actions.files("a/b.py", "a/c.py")])
    second._pieces.reverse()
    assert reads(action_graph.read(second.answer()), "//app:t") == reads(action_graph.read(first.answer()), "//app:t")


def test_nothing():
    assert action_graph.read(b"") == ActionGraph([], [], {})


def test_json_round_trip():
    actions = Actions()
    actions.action("Genrule", "//lib:gen", [actions.files("lib/ü x.txt")], ["bazel-out/lib/out.txt"])
    actions.test("//app:t", [actions.files("bazel-out/lib/out.txt", "x.py")], arguments=["-v"])
    graph = action_graph.read(actions.answer())
    assert ActionGraph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_deep_chains():
    depth = 5000
    actions = Actions()
    depset = actions.files("bottom.txt")
    for _ in range(depth):
        depset = actions.files(inner=[depset])
    actions.action("Step", "//s", [depset], ["bazel-out/s0"])
    for i in range(depth):
        actions.action("Step", "//s", [actions.files(f"bazel-out/s{i}")], [f"bazel-out/s{i + 1}"])
    actions.test("//app:t", [actions.files(f"bazel-out/s{depth}")])
    assert reads(action_graph.read(actions.answer()), "//app:t") == {"bottom.txt"}


def test_file_contents():
    actions = Actions()
    actions.action("FileWrite", "//a", (), ["bazel-out/a.txt", "bazel-out/b.txt"], file_contents="eA==")
    actions.action("FileWrite", "//b", (), ["bazel-out/c.txt"])
    assert action_graph.file_contents(actions.answer()) == {"bazel-out/a.txt": "eA==", "bazel-out/b.txt": "eA=="}

import random

import pytest

from tools.affected import target_graph
from tools.affected.fake_answers import cquery, generated, rule, source

# //lib:lib <- //app:t1; //other:lib <- //app:t2; both read a file that //lib:gen makes.
LIB = rule("//lib:lib", inputs=["//lib:lib.py", "//lib:out.txt"], srcs=["//lib:lib.py"])
OTHER = rule("//other:lib", inputs=["//other:lib.py"], srcs=["//other:lib.py"])
GEN = rule("//lib:gen", "genrule", inputs=["//lib:in.txt"], cmd="cp $< $@")
TEST_1 = rule("//app:t1", "py_test", inputs=["//lib:lib"], deps=["//lib:lib"], tags=["unit"], size="small")
TEST_2 = rule("//app:t2", "py_test", inputs=["//other:lib"], deps=["//other:lib"])
FILES = [
    source("//lib:lib.py"),
    source("//other:lib.py"),
    source("//lib:in.txt"),
    generated("//lib:out.txt", "//lib:gen"),
]
TARGETS = {"lib": LIB, "other": OTHER, "gen": GEN, "t1": TEST_1, "t2": TEST_2}


def graph(toolchains=(), surroundings="", more=(), **instead):
    targets = {**TARGETS, **instead}
    return target_graph.read(cquery(*[t for t in targets.values() if t], *FILES, *more), toolchains, surroundings)


def structures(*arguments, **named):
    return {label.rpartition(":")[2]: test.structure for label, test in graph(*arguments, **named).tests.items()}


def changed(*arguments, **named):
    """Names of the tests whose structure differs from that of the workspace above."""
    before, after = structures(), structures(*arguments, **named)
    return {name for name in after if before.get(name) != after[name]}


def test_tests():
    assert graph().tests.keys() == {"//app:t1", "//app:t2"}
    assert graph().tests["//app:t1"].tags == ("unit",)
    assert graph().edges["//lib:lib"] == ("//lib:lib.py", "//lib:out.txt")
    assert graph().edges["//lib:out.txt"] == ("//lib:gen",)


def test_same_answer_same_structure():
    assert changed() == set()


def test_attribute_reaches_the_tests_above():
    assert changed(
        lib=rule("//lib:lib", inputs=["//lib:lib.py", "//lib:out.txt"], srcs=["//lib:lib.py"], imports=["."])
    ) == {"t1"}
    assert changed(t2=rule("//app:t2", "py_test", inputs=["//other:lib"], deps=["//other:lib"], args=["-v"])) == {"t2"}


def test_rule_behind_a_generated_file_reaches_the_tests_above():
    assert changed(gen=rule("//lib:gen", "genrule", inputs=["//lib:in.txt"], cmd="sort $< > $@")) == {"t1"}


def test_new_edge_reaches_the_test():
    assert changed(other=rule("//other:lib", inputs=["//other:lib.py", "//lib:in.txt"], srcs=["//other:lib.py"])) == {
        "t2"
    }


def test_rule_class_counts():
    assert changed(other=rule("//other:lib", "my_library", inputs=["//other:lib.py"], srcs=["//other:lib.py"])) == {
        "t2"
    }


def test_target_that_became_a_file_counts():
    """Content of sources is not part of the structure; whether something is a source is."""
    before = target_graph.read(cquery(TEST_2, rule("//other:lib")), (), "")
    after = target_graph.read(cquery(TEST_2, source("//other:lib")), (), "")
    assert before.tests["//app:t2"].structure != after.tests["//app:t2"].structure


def test_configuration_counts():
    other = rule("//other:lib", inputs=["//other:lib.py"], checksum="c2", srcs=["//other:lib.py"])
    assert changed(other=other) == {"t2"}


def test_target_in_a_second_configuration_counts():
    again = rule("//lib:lib", inputs=["//lib:lib.py"], checksum="c2", srcs=["//lib:lib.py"])
    assert changed(more=[again]) == {"t1"}


def test_place_in_the_build_file_does_not_count():
    moved = rule("//other:lib", inputs=["//other:lib.py"], srcs=["//other:lib.py"], generator_location="BUILD:99:1")
    assert changed(other=moved) == set()


def test_order_of_results_does_not_count():
    results = [*TARGETS.values(), *FILES, rule("//lib:lib", checksum="c2", inputs=["//lib:in.txt"])]
    first = target_graph.read(cquery(*results), ("//lib:lib",), "x")
    for seed in range(10):
        random.Random(seed).shuffle(results)
        assert target_graph.read(cquery(*results), ("//lib:lib",), "x") == first


def test_manual_is_left_out():
    assert structures(t1=rule("//app:t1", "py_test", inputs=["//lib:lib"], tags=["unit", "manual"])).keys() == {"t2"}


def test_tests_of_other_repositories_and_suites_are_left_out():
    more = [rule("@rules//x:x_test", "py_test"), rule("//app:all", "test_suite"), rule("//app:program", "py_binary")]
    assert structures(more=more).keys() == {"t1", "t2"}


def untagged(**attributes):
    return graph(t2=rule("//app:t2", "py_test", inputs=["//other:lib"], **attributes)).tests["//app:t2"].untagged


def test_own_tags_are_not_part_of_untagged():
    assert untagged(tags=["a"]) == untagged(tags=["b"]) == untagged()


@pytest.mark.parametrize("attribute", [{"args": ["-v"]}, {"exec_properties": {"test.Pool": "gpu"}}, {"mode": "x"}])
def test_all_else_is_part_of_untagged(attribute):
    assert untagged(**attribute) != untagged()


def test_surroundings_are_not_part_of_untagged_but_of_structure():
    before, after = (target_graph.read(cquery(*TARGETS.values(), *FILES), (), text) for text in ("x", "y"))
    assert before.tests["//app:t2"].untagged == after.tests["//app:t2"].untagged
    assert before.tests["//app:t2"].structure != after.tests["//app:t2"].structure


def test_what_a_test_reaches_is_part_of_untagged():
    changed_library = rule("//other:lib", inputs=["//other:lib.py"], srcs=["//other:lib.py"], imports=["."])
    assert graph(other=changed_library).tests["//app:t2"].untagged != graph().tests["//app:t2"].untagged


@pytest.mark.parametrize(
    ("properties", "pool"),
    [
        ({"test.Pool": "gpu"}, "gpu"),
        ({"Pool": "cpu"}, "cpu"),
        ({"Pool": "cpu", "test.Pool": "gpu"}, "gpu"),
        ({"a": "b"}, ""),
    ],
)
def test_pool(properties, pool):
    test = rule("//app:t2", "py_test", inputs=["//other:lib"], exec_properties=properties)
    assert graph(t2=test).tests["//app:t2"].pool == pool
    assert graph().tests["//app:t2"].pool == ""


# What every test may depend on though it does not name it.


def test_target_that_no_attribute_names_reaches_all():
    def toolchain(**attributes):
        runtime = rule("@python//:runtime", "py_runtime", inputs=["@python//:bin"], **attributes)
        return [
            rule("@python//:pair", "py_runtime_pair", inputs=["@python//:runtime"]),
            runtime,
            source("@python//:bin"),
        ]

    assert graph(more=toolchain()).hidden == ("@python//:bin", "@python//:pair", "@python//:runtime")
    before, after = structures(more=toolchain()), structures(more=toolchain(version="3.12"))
    assert all(before[name] != after[name] for name in ("t1", "t2"))


def test_toolchain_that_a_test_also_names_reaches_all():
    lib = rule("//lib:lib", inputs=["//lib:lib.py", "//lib:out.txt"], srcs=["//lib:lib.py"], imports=["."])
    assert changed(lib=lib) == {"t1"}
    before, after = structures(toolchains=["//lib:lib"]), structures(toolchains=["//lib:lib"], lib=lib)
    assert all(before[name] != after[name] for name in ("t1", "t2"))


def test_surroundings_reach_all():
    assert changed(surroundings="MODULE.bazel is another") == {"t1", "t2"}
    assert graph(surroundings="a").surroundings != graph(surroundings="b").surroundings


def test_toolchains_of_an_answer():
    # (of bazel 7.7.1 cquery 'deps(tests(//...))' --transitions=lite, shortened)
    transitions = """\
//p60:t9 (b357dd0)
  $test_wrapper#@bazel_tools//tools/test:test_wrapper#(exec + (TestTrimmingTransition + FlagTransition)) -> 46922a7
  srcs#//p60:t9.py#NullTransition -> 46922a7
  deps#//p60:l9#(TestTrimmingTransition + FlagTransition) -> 5c86453
  [toolchain dependency: test]#@bazel_tools//tools/python:_autodetecting_py_runtime_pair#(TestTrimming) -> 5c86453
  [toolchain dependency: test]#@@bazel_tools~cc_configure~local_config_cc//:cc-compiler-k8#(TestTrimming) -> 5c86453
  [toolchain dependency]#@bazel_tools//tools/python:_autodetecting_py_runtime_pair#(TestTrimming) -> 5c86453
//p60:l9 (5c86453)
  [toolchain dependency]#//tools:own#NoTransition -> 5c86453
"""
    assert target_graph.toolchains(transitions) == (
        "//tools:own",
        "@@bazel_tools~cc_configure~local_config_cc//:cc-compiler-k8",
        "@bazel_tools//tools/python:_autodetecting_py_runtime_pair",
    )
    assert target_graph.toolchains("") == ()


# Closures.


def test_closures_of_a_diamond():
    edges = {"top": ("left", "right"), "left": ("bottom",), "right": ("bottom",)}
    own = dict.fromkeys(["top", "left", "right", "bottom"], "same")
    before = target_graph.closures(own, edges, ["top", "right"])
    assert before.keys() == {"top", "left", "right", "bottom"}
    after = target_graph.closures({**own, "left": "other"}, edges, ["top", "right"])
    assert {label for label in before if before[label] != after[label]} == {"top", "left"}


def test_deep_chain():
    depth = 5000
    links = [rule(f"//c:l{i}", inputs=[f"//c:l{i + 1}"]) for i in range(depth)]
    test = rule("//c:t", "py_test", inputs=["//c:l0"])
    ends = [rule(f"//c:l{depth}", size=size) for size in ("1", "2")]
    found = [target_graph.read(cquery(test, *links, end), (), "").tests["//c:t"].structure for end in ends]
    assert found[0] != found[1]


def test_target_may_name_itself():
    own = rule("//app:t2", "py_test", inputs=["//app:t2", "//other:lib"])
    assert graph(t2=own).edges["//app:t2"] == ("//other:lib",)

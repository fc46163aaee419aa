from pathlib import Path
from typing import Any

import pytest

from tools.affected.bench import peer_hashing
from tools.affected.bench.peer_hashing import Target, affected, closures, hashes, targets


def rule(name: str, rule_class: str, inputs: list[str], **attributes: bytes) -> Any:
    target = Target()
    target.rule.name, target.rule.rule_class = name, rule_class
    target.rule.rule_input.extend(inputs)
    for key, value in attributes.items():
        attribute = target.rule.attribute.add(name=key)
        attribute.MergeFromString(b"\x2a" + bytes([len(value)]) + value)  # (field 5, string_value)
    return target


def source(name: str) -> Any:
    target = Target()
    target.source_file.name = name
    return target


def generated(name: str, by: str) -> Any:
    target = Target()
    target.generated_file.name, target.generated_file.generating_rule = name, by
    return target


def stream(*messages: Any) -> bytes:
    data = b""
    for message in messages:
        text, size = message.SerializeToString(), message.ByteSize()
        while size >= 0x80:
            data += bytes([size & 0x7F | 0x80])
            size >>= 7
        data += bytes([size]) + text
    return data


def graph(**attributes: bytes) -> bytes:
    return stream(
        source("//p:a.py"),
        source("//p:b.py"),
        source("//p:in.txt"),
        source("@other//:x.py"),
        rule("//p:a", "py_library", ["//p:a.py", "@other//:x.py"], **attributes),
        rule("//p:gen", "genrule", ["//p:in.txt"]),
        generated("//p:out.txt", "//p:gen"),
        rule("//p:ta", "py_test", ["//p:a"]),
        rule("//p:tb", "py_test", ["//p:b.py", "//p:out.txt"]),
        rule("@other//:t", "py_test", []),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    for name in ("a.py", "b.py", "in.txt"):
        (tmp_path / "p" / name).write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a.py", {"//p:ta"}), ("b.py", {"//p:tb"}), ("in.txt", {"//p:tb"}), ("unused.py", set())],
)
def test_content_reaches_the_tests_above_it(root: Path, file: str, expected: set[str]) -> None:
    base, _ = hashes(graph(), root)
    (root / "p" / file).write_text("2")
    head, tests = hashes(graph(), root)
    assert tests == {"//p:ta", "//p:tb"}
    assert affected(base, head, tests) == expected


def test_attributes_count_but_their_places_do_not(root: Path) -> None:
    base, tests = hashes(graph(licenses=b"a", generator_location=b"BUILD:1"), root)
    moved, _ = hashes(graph(licenses=b"a", generator_location=b"BUILD:2"), root)
    other, _ = hashes(graph(licenses=b"b", generator_location=b"BUILD:1"), root)
    assert affected(base, moved, tests) == set()
    assert affected(base, other, tests) == {"//p:ta"}


def test_implementation_of_a_rule_counts(root: Path) -> None:
    one, two = rule("//p:ta", "x_test", []), rule("//p:ta", "x_test", [])
    one.rule.implementation, two.rule.implementation = "a", "b"
    base, tests = hashes(stream(one), root)
    assert affected(base, hashes(stream(two), root)[0], tests) == {"//p:ta"}


def test_new_tests_are_affected_and_deleted_ones_are_not() -> None:
    assert affected({"//:a": "1", "//:old": "1"}, {"//:a": "1", "//:new": "1"}, frozenset({"//:a", "//:new"})) == {
        "//:new"
    }


def test_order_of_targets_says_nothing() -> None:
    own = {"//:a": b"1", "//:b": b"2", "//:c": b"3"}
    inputs = {"//:a": ("//:b",), "//:b": ("//:c",)}
    assert closures(own, inputs) == closures(dict(reversed(own.items())), inputs)


def test_a_chain_deeper_than_pythons_stack() -> None:
    count = 5000
    own = {f"//:{i}": b"" for i in range(count)}
    inputs = {f"//:{i}": (f"//:{i + 1}",) for i in range(count - 1)}
    base = closures(own, inputs)
    head = closures({**own, f"//:{count - 1}": b"changed"}, inputs)
    assert all(base[label] != head[label] for label in own)


def test_messages_longer_than_one_byte_of_length_says() -> None:
    long = "//p:" + "x" * 20000
    assert [each.source_file.name for each in targets(stream(source(long), source("//p:y")))] == [long, "//p:y"]


def test_the_query_is_the_published_one() -> None:
    assert peer_hashing.QUERY == ("query", "deps(//...)", "--output=streamed_proto")

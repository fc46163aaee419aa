"""The two-graph hashing by which existing selectors work, to measure beside ours; never used to select.

As bazel-diff (github.com/Tinder/bazel-diff) and target-determinator (github.com/bazel-contrib/target-determinator)
describe it: for each of two revisions ask `bazel query 'deps(//...)' --output=streamed_proto`; the hash of a source
file is that of its content, the hash of a rule that of its class, attributes, implementation and inputs' hashes; a
target is affected if its hash differs. External files count by their name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

QUERY = ("query", "deps(//...)", "--output=streamed_proto")

# The hashed fields of Bazel's build.proto; the runtime keeps those of an attribute that have no name here.
_SCHEMA = """
name: "trainyard/peer_hashing.proto" package: "peer" syntax: "proto2"
message_type {
  name: "Attribute"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_REQUIRED }
}
message_type {
  name: "Rule"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_REQUIRED }
  field { name: "rule_class" number: 2 type: TYPE_STRING label: LABEL_REQUIRED }
  field { name: "attribute" number: 4 type: TYPE_MESSAGE type_name: ".peer.Attribute" label: LABEL_REPEATED }
  field { name: "rule_input" number: 5 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "implementation" number: 12 type: TYPE_STRING label: LABEL_OPTIONAL }
}
message_type {
  name: "SourceFile"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_REQUIRED }
}
message_type {
  name: "GeneratedFile"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_REQUIRED }
  field { name: "generating_rule" number: 2 type: TYPE_STRING label: LABEL_REQUIRED }
}
message_type {
  name: "Target"
  field { name: "rule" number: 2 type: TYPE_MESSAGE type_name: ".peer.Rule" label: LABEL_OPTIONAL }
  field { name: "source_file" number: 3 type: TYPE_MESSAGE type_name: ".peer.SourceFile" label: LABEL_OPTIONAL }
  field { name: "generated_file" number: 4 type: TYPE_MESSAGE type_name: ".peer.GeneratedFile" label: LABEL_OPTIONAL }
}
"""
# Where a target was written: moving a line changes no build.
_PLACES = ("generator_location",)


def _target_class() -> Any:
    file = text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("peer.Target"))


Target = _target_class()


def targets(data: bytes) -> Iterator[Any]:
    """The messages of a streamed answer: each has its length before it, as a varint."""
    view, place = memoryview(data), 0
    while place < len(data):
        size, shift, byte = 0, 0, 0x80
        while byte & 0x80:
            byte = view[place]
            size |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
        yield Target.FromString(view[place : place + size])
        place += size


def hashes(data: bytes, root: Path) -> tuple[dict[str, str], frozenset[str]]:
    """Hashes all targets of a revision.

    Args:
      data: the answer to QUERY.
      root: the workspace, checked out at that revision.

    Returns:
      label to hash, and the labels of the tests.
    """
    own: dict[str, bytes] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    tests: set[str] = set()
    for target in targets(data):
        if target.HasField("rule"):
            rule = target.rule
            digest = hashlib.sha256(f"{rule.rule_class}\0{rule.name}\0{rule.implementation}\0".encode())
            for attribute in rule.attribute:
                if attribute.name not in _PLACES:
                    digest.update(attribute.SerializeToString(deterministic=True))
            own[rule.name] = digest.digest()
            inputs[rule.name] = tuple(rule.rule_input)
            if rule.rule_class.endswith("_test") and rule.name.startswith("//"):
                tests.add(rule.name)
        elif target.HasField("source_file"):
            own[target.source_file.name] = _content(target.source_file.name, root)
        elif target.HasField("generated_file"):
            own[target.generated_file.name] = target.generated_file.name.encode()
            inputs[target.generated_file.name] = (target.generated_file.generating_rule,)
    return closures(own, inputs), frozenset(tests)


def closures(own: Mapping[str, bytes], inputs: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """For every target a hash of its own and its inputs' hashes; a target that reaches itself counts once."""
    done: dict[str, str] = {}
    for root in own:
        stack = [(root, False)]
        while stack:
            label, below_done = stack.pop()
            if below_done:
                digest = hashlib.sha256(own.get(label, label.encode()))
                for each in inputs.get(label, ()):
                    digest.update(done.get(each, each).encode())
                done[label] = digest.hexdigest()
            elif label not in done:
                stack.append((label, True))
                stack += [(each, False) for each in inputs.get(label, ()) if each not in done]
    return done


def affected(base: Mapping[str, str], head: Mapping[str, str], tests: frozenset[str]) -> frozenset[str]:
    """The tests of head that base does not have, or has with another hash."""
    return frozenset(label for label in tests if base.get(label) != head[label])


def _content(label: str, root: Path) -> bytes:
    if label.startswith("//"):
        path = root / label.removeprefix("//").replace(":", "/").lstrip("/")
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).digest()
    return label.encode()

"""The protocol buffers in which Bazel answers `cquery --output=proto` and `aquery --output=streamed_proto`.

Only the fields that are read have names here; the runtime keeps the others, so a message's bytes stay whole. Numbers
are those of Bazel's src/main/protobuf/build.proto and analysis_v2.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _Field.TYPE_STRING, "uint32": _Field.TYPE_UINT32, "int32": _Field.TYPE_INT32}
# message -> {field: (number, type)}; `*` marks repeated fields.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Pair": {"key": (1, "string"), "value": (2, "string")},
    # build.proto
    "Attribute": {
        "name": (1, "string"),
        "string_value": (5, "string"),
        "string_list_value": (6, "string*"),
        "string_dict_value": (8, "Pair*"),
    },
    "Rule": {
        "name": (1, "string"),
        "rule_class": (2, "string"),
        "attribute": (4, "Attribute*"),
        "rule_input": (5, "string*"),
    },
    "SourceFile": {"name": (1, "string")},
    "GeneratedFile": {"name": (1, "string"), "generating_rule": (2, "string")},
    "Target": {
        "type": (1, "int32"),
        "rule": (2, "Rule"),
        "source_file": (3, "SourceFile"),
        "generated_file": (4, "GeneratedFile"),
    },
    # analysis_v2.proto
    "Configuration": {"checksum": (4, "string")},
    "ConfiguredTarget": {"target": (1, "Target"), "configuration": (2, "Configuration")},
    "CqueryResult": {"results": (1, "ConfiguredTarget*")},
    "Artifact": {"id": (1, "uint32"), "path_fragment_id": (2, "uint32")},
    "Action": {
        "target_id": (1, "uint32"),
        "action_key": (3, "string"),
        "mnemonic": (4, "string"),
        "arguments": (6, "string*"),
        "environment_variables": (7, "Pair*"),
        "input_dep_set_ids": (8, "uint32*"),
        "output_ids": (9, "uint32*"),
        "execution_info": (11, "Pair*"),
        "execution_platform": (13, "string"),
        "file_contents": (17, "string"),
    },
    "ActionTarget": {"id": (1, "uint32"), "label": (2, "string")},
    "DepSet": {
        "id": (1, "uint32"),
        "transitive_dep_set_ids": (2, "uint32*"),
        "direct_artifact_ids": (3, "uint32*"),
    },
    "PathFragment": {"id": (1, "uint32"), "label": (2, "string"), "parent_id": (3, "uint32")},
    "ActionGraph": {
        "artifacts": (1, "Artifact*"),
        "actions": (2, "Action*"),
        "targets": (3, "ActionTarget*"),
        "dep_set_of_files": (4, "DepSet*"),
        "path_fragments": (8, "PathFragment*"),
    },
}
# The discriminators of Target.type.
RULE, SOURCE_FILE, GENERATED_FILE = 1, 2, 3


def _classes() -> dict[str, type[message.Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="trainyard/affected.proto", package="affected", syntax="proto2")
    for name, fields in _MESSAGES.items():
        entry = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            kind = kind.removesuffix("*")
            if kind in _SCALARS:
                entry.field.add(name=field, number=number, label=label, type=_SCALARS[kind])
            else:
                entry.field.add(
                    name=field, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=f".affected.{kind}"
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"affected.{name}")) for name in _MESSAGES}


_CLASSES = _classes()


def cquery_result(data: bytes) -> Any:
    """What `cquery --output=proto` says."""
    return _CLASSES["CqueryResult"].FromString(data)


def action_graphs(data: bytes) -> Iterator[Any]:
    """What `aquery --output=streamed_proto` says, piece by piece."""
    place = 0
    while place < len(data):
        size, shift = 0, 0
        while True:  # a varint: seven bits a byte, lowest first, the top bit says that more follow
            byte = data[place]
            place += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield _CLASSES["ActionGraph"].FromString(data[place : place + size])
        place += size

"""Answers of Bazel made by hand, for tests."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.affected import messages
from tools.affected.private_bazel import BazelError

_Value = str | Sequence[str] | Mapping[str, str]


def message(kind: str, **fields: Any) -> Any:
    """A message of `messages` by its name."""
    return messages._CLASSES[kind](**fields)


def rule(
    name: str, kind: str = "py_library", inputs: Sequence[str] = (), checksum: str = "c1", **attributes: _Value
) -> Any:
    """A configured rule: text, lists and dicts as attributes."""
    return _configured(
        checksum,
        type=messages.RULE,
        rule=message(
            "Rule",
            name=name,
            rule_class=kind,
            rule_input=inputs,
            attribute=[_attribute(key, value) for key, value in attributes.items()],
        ),
    )


def source(name: str) -> Any:
    """A source file."""
    return _configured("", type=messages.SOURCE_FILE, source_file=message("SourceFile", name=name))


def generated(name: str, by: str) -> Any:
    """A file that a rule makes."""
    file = message("GeneratedFile", name=name, generating_rule=by)
    return _configured("", type=messages.GENERATED_FILE, generated_file=file)


def cquery(*results: Any) -> bytes:
    """What `cquery --output=proto` answers."""
    data: bytes = message("CqueryResult", results=results).SerializeToString()
    return data


class Actions:
    """Builds what `aquery --output=streamed_proto` answers: files and sets of files first, then actions on them."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._ids: dict[str, dict[str, int]] = {"artifact": {}, "fragment": {}, "target": {}}
        self._depsets = 0

    def files(self, *direct: str, inner: Sequence[int] = ()) -> int:
        """A set of files, by path, and of other sets; returns its number."""
        self._depsets += 1
        artifacts = [self._artifact(path) for path in direct]
        depset = message("DepSet", id=self._depsets, transitive_dep_set_ids=inner, direct_artifact_ids=artifacts)
        self._pieces.append(message("ActionGraph", dep_set_of_files=[depset]))
        return self._depsets

    def action(
        self,
        mnemonic: str,
        label: str,
        inputs: Sequence[int] = (),
        outputs: Sequence[str] = (),
        key: str = "",
        environment: Mapping[str, str] | None = None,
        execution: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """An action on sets of files."""
        target = self._id("target", label)
        made = message(
            "Action",
            target_id=target,
            action_key=key or f"key of {mnemonic} {label}",
            mnemonic=mnemonic,
            input_dep_set_ids=inputs,
            output_ids=[self._artifact(path) for path in outputs],
            environment_variables=_pairs(environment or {}),
            execution_info=_pairs(execution or {}),
            **fields,
        )
        targets = [message("ActionTarget", id=target, label=label)]
        self._pieces.append(message("ActionGraph", actions=[made], targets=targets))

    def test(self, label: str, inputs: Sequence[int] = (), **fields: Any) -> None:
        """A test's own action."""
        name = label.replace("//", "").replace(":", "/")
        self.action("TestRunner", label, inputs, [f"bazel-out/testlogs/{name}/test.log"], **fields)

    def answer(self) -> bytes:
        """All that was built."""
        return b"".join(_varint(len(data)) + data for data in (piece.SerializeToString() for piece in self._pieces))

    def _artifact(self, path: str) -> int:
        known = path in self._ids["artifact"]
        number = self._id("artifact", path)
        if not known:
            fragments, parent, so_far = [], 0, ""
            for part in path.split("/"):
                so_far += f"/{part}"
                fragment = self._id("fragment", so_far)
                fragments.append(message("PathFragment", id=fragment, label=part, parent_id=parent))
                parent = fragment
            artifact = message("Artifact", id=number, path_fragment_id=parent)
            self._pieces.append(message("ActionGraph", artifacts=[artifact], path_fragments=fragments))
        return number

    def _id(self, kind: str, name: str) -> int:
        known = self._ids[kind]
        return known.setdefault(name, len(known) + 1)


class FakeBazel:
    """Answers as a `PrivateBazel` about the targets that `targets.json` in its folder declares.

    Label to `kind`, `deps` (labels), `srcs` (paths), `tags`, `size`, `args`, `mode` (which only the key of the test's
    action shows), `needs` (a flag without which the test is incompatible). A file `broken` stands for a BUILD file that
    does not load.

    Attributes:
      folder: as that of `PrivateBazel`.
      output_base: likewise.
      names: likewise.
      asked: all questions so far.
      tells_what_it_read: whether `read_files` has an answer.
    """

    tells_what_it_read = True

    def __init__(self, command: Sequence[str], folder: Path, flags: Sequence[str], server: int = 0) -> None:
        """As that of `PrivateBazel`."""
        del command, flags
        self.folder = folder
        self.output_base = folder.with_name(f"tree.output{server or ''}")
        self.names = ""
        self.asked: list[str] = []

    def cquery(self, expression: str, *flags: str) -> bytes:
        """Targets, with what they reach."""
        targets = self._targets("cquery", expression)
        if "--output=proto" not in flags:
            return b""
        labels = re.findall(r'"([^"]+)"', expression) if "tests(" not in expression else self._tests(targets)
        results, seen = [], set(labels)
        stack = list(labels)
        while stack:
            label = stack.pop()
            declared = targets[label]
            sources = [f"//:{path}" for path in declared.get("srcs", ())]
            attributes = {
                name: declared[name] for name in ("tags", "size", "args", "needs", "mode") if name in declared
            }
            named = [*declared.get("deps", ()), *sources]
            results += [rule(label, declared["kind"], named, **attributes), *map(source, sources)]
            new = [other for other in declared.get("deps", ()) if other not in seen]
            seen.update(new)
            stack += new
        return cquery(*results)

    def aquery(self, expression: str, *flags: str) -> bytes:
        """The tests' actions: each reads the sources that it reaches, and a manifest of its dependencies."""
        targets = self._targets("aquery", expression)
        actions = Actions()
        done: dict[str, int] = {}

        def files(label: str) -> int:
            if label not in done:
                inner = [files(other) for other in targets[label].get("deps", ())]
                done[label] = actions.files(*targets[label].get("srcs", ()), inner=inner)
            return done[label]

        for label in re.findall(r'"(//[^"]+)"', expression):
            declared = targets[label]
            if declared.get("needs", "") not in (*flags, ""):
                continue
            manifest = f"bazel-out/{label[2:].replace(':', '/')}.manifest"
            said = json.dumps(declared.get("deps", ()))
            content = base64.b64encode(said.encode()).decode()
            actions.action("SourceSymlinkManifest", label, outputs=[manifest], key=said, file_contents=content)
            if "SourceSymlinkManifest" not in expression:
                inputs = [files(label), actions.files(manifest)]
                settings = json.dumps([declared.get(name) for name in ("tags", "size", "mode")])
                actions.test(label, inputs, key=settings, arguments=declared.get("args", ()))
        return actions.answer()

    def query(self, expression: str, *flags: str) -> bytes:
        """Labels of tests, or a declaration."""
        targets = self._targets("query", expression)
        if "--output=build" in flags:
            return json.dumps(targets.get(expression.strip('"'), ""), indent=1).encode()
        manual = () if "manual" in expression else ("manual",)
        found = [label for label in self._tests(targets) if manual or "manual" not in targets[label].get("tags", ())]
        return "".join(f"{label}\n" for label in found).encode()

    def read_files(self) -> set[str] | None:
        """The file that declares the targets."""
        self.asked.append("read files")
        return {"targets.json"} if self.tells_what_it_read else None

    def _targets(self, verb: str, expression: str) -> dict[str, Any]:
        self.asked.append(f"{verb} {expression}")
        if (self.folder / "broken").exists():
            raise BazelError("Loading: 1 package\nERROR: app/BUILD.bazel:1:1: broken")
        found: dict[str, Any] = json.loads((self.folder / "targets.json").read_text())
        return found

    def _tests(self, targets: Mapping[str, Any]) -> list[str]:
        return [label for label, declared in targets.items() if declared["kind"].endswith("_test")]


def _configured(checksum: str, **target: Any) -> Any:
    configuration = message("Configuration", checksum=checksum)
    return message("ConfiguredTarget", target=message("Target", **target), configuration=configuration)


def _attribute(name: str, value: _Value) -> Any:
    if isinstance(value, str):
        return message("Attribute", name=name, string_value=value)
    if isinstance(value, Mapping):
        return message("Attribute", name=name, string_dict_value=_pairs(value))
    return message("Attribute", name=name, string_list_value=value)


def _pairs(values: Mapping[str, str]) -> list[Any]:
    return [message("Pair", key=key, value=value) for key, value in values.items()]


def _varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])

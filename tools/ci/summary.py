"""Counts test cases from Bazel's build event file: `N passed, N failed, N skipped`.

usage: summary.py BUILD_EVENT_JSON_FILE

Standard library alone: it runs outside Bazel, after it.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass
class Counts:
    """Numbers of test cases; a target that is incompatible with the platform is one skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count_xml(text: str) -> Counts:
    """Counts the cases of a JUnit report.

    Raises:
      xml.etree.ElementTree.ParseError: the report is torn.
    """
    counts = Counts()
    for case in ET.fromstring(text).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts.failed += 1
        elif "skipped" in kinds:
            counts.skipped += 1
        else:
            counts.passed += 1
    return counts


def _attempt(result: dict[str, Any]) -> Counts:
    """The cases of one run (shard) of a target; one that did not pass has a failure, whatever its report says."""
    counts = Counts()
    for output in result.get("testActionOutput", []):
        if output.get("name") == "test.xml":
            try:
                counts = count_xml(Path(unquote(urlparse(output["uri"]).path)).read_text())
            except (OSError, ET.ParseError):
                counts = Counts()
    if result.get("status") != "PASSED" and not counts.failed:
        counts.failed = 1
    if result.get("status") == "PASSED" and counts == Counts():
        counts.passed = 1  # (a rule without a report of cases: the target is the case)
    return counts


def summarize(events: list[dict[str, Any]]) -> tuple[Counts, list[str]]:
    """Counts the cases of all targets.

    Args:
      events: Bazel's build events.

    Returns:
      the counts, and a line for each target that failed or was not built.
    """
    attempts: dict[tuple[Any, ...], tuple[str, Counts]] = {}
    counts, lines = Counts(), []
    for event in events:
        name = event.get("id", {})
        if "testResult" in name and "testResult" in event:
            key = name["testResult"]
            # Of several attempts at a flaky test the last one counts.
            where = (key["label"], key.get("run"), key.get("shard"))
            attempts[where] = (event["testResult"].get("status", ""), _attempt(event["testResult"]))
        elif "targetCompleted" in name and event.get("aborted", {}).get("reason") == "SKIPPED":
            counts.skipped += 1
        elif "targetCompleted" in name and ("aborted" in event or not event.get("completed", {}).get("success", True)):
            counts.failed += 1
            lines.append(f"{name['targetCompleted']['label']}: not built")
        elif "aborted" in event and event["aborted"].get("reason") == "LOADING_FAILURE":
            counts.failed += 1
            lines.append(event["aborted"].get("description", "loading failed"))
    for (label, *_), (status, attempt) in attempts.items():
        counts.passed += attempt.passed
        counts.failed += attempt.failed
        counts.skipped += attempt.skipped
        if status != "PASSED":
            lines.append(f"{label}: {status}")
    return counts, lines


def main(path: str) -> int:
    """Prints what failed and the closing line; 1 if anything failed or nothing passed."""
    events = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    counts, lines = summarize(events)
    print("\n".join([*lines, str(counts)]))
    return 1 if counts.failed or not counts.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

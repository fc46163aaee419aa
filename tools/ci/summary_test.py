import json

import pytest

from tools.ci.summary import Counts, count_xml, main, summarize

REPORT = """<testsuites><testsuite>
  <testcase name="a"/><testcase name="b"><system-out>text</system-out></testcase>
  <testcase name="c"><failure message="no"/></testcase><testcase name="d"><error message="no"/></testcase>
  <testcase name="e"><skipped message="why"/></testcase>
</testsuite></testsuites>"""
GREEN = '<testsuite><testcase name="a"/><testcase name="b"/></testsuite>'


@pytest.fixture
def result(tmp_path):
    """Returns a function that makes the event of one run of a test target."""

    def make(label, status, report=None, **where):
        outputs = []
        if report is not None:
            path = tmp_path / f"{label.strip('/')}{where} test.xml"
            path.write_text(report)
            outputs = [{"name": "test.log", "uri": "file:///x"}, {"name": "test.xml", "uri": path.as_uri()}]
        return {
            "id": {"testResult": {"label": label, "run": 1, **where}},
            "testResult": {"status": status, "testActionOutput": outputs},
        }

    return make


def aborted(label, reason):
    return {"id": {"targetCompleted": {"label": label}}, "aborted": {"reason": reason}}


def test_cases_of_a_report():
    assert count_xml(REPORT) == Counts(passed=2, failed=2, skipped=1)


def test_shards_add_up_and_the_last_attempt_counts(result):
    events = [
        result("//a", "FAILED", REPORT, shard=1),
        result("//a", "PASSED", GREEN, shard=1),
        result("//a", "PASSED", GREEN, shard=2),
    ]
    assert summarize(events) == (Counts(passed=4), [])


@pytest.mark.parametrize("report", [None, "", "<testsuite><testc", GREEN])
def test_target_that_failed_is_never_green(result, report):
    counts, lines = summarize([result("//a", "TIMEOUT", report)])
    assert counts.failed == 1
    assert lines == ["//a: TIMEOUT"]


def test_target_without_cases_is_one(result):
    assert summarize([result("//a", "PASSED")])[0] == Counts(passed=1)


def test_incompatible_is_skipped_and_unbuilt_is_failed():
    events = [
        aborted("//gpu", "SKIPPED"),
        aborted("//broken", "ANALYSIS_FAILURE"),
        {"id": {"targetCompleted": {"label": "//c"}}, "completed": {"success": False}},
        {"id": {"targetCompleted": {"label": "//lib"}}, "completed": {"success": True}},
    ]
    assert summarize(events) == (Counts(failed=2, skipped=1), ["//broken: not built", "//c: not built"])


@pytest.mark.parametrize(("status", "report", "code"), [("PASSED", GREEN, 0), ("FAILED", REPORT, 1)])
def test_closing_line_and_exit_code(result, tmp_path, capsys, status, report, code):
    (tmp_path / "events").write_text(json.dumps(result("//a", status, report)) + "\n\n")
    assert main(str(tmp_path / "events")) == code
    assert capsys.readouterr().out.splitlines()[-1] == str(count_xml(report))


def test_nothing_ran_is_red(tmp_path, capsys):
    (tmp_path / "events").write_text("")
    assert main(str(tmp_path / "events")) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed, 0 skipped\n"

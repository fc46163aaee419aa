import html.parser
import re

from tools.remote.cluster_logs import Restarts
from tools.remote.job_store import Jobs, Running, Session
from tools.remote.status import assemble
from tools.remote.status_example import AT, JOBS, WANTED, facts
from tools.remote.status_page import render


class Page(html.parser.HTMLParser):
    """The text of each element with an id, and the tags and addresses of all."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.rows, self._cells = set(), [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cells = self.rows[-1]

    def handle_data(self, data):
        if self._cells:
            self._cells[-1] += data.strip("\n")


def test_figures_without_a_script():
    text = render(assemble(WANTED, facts()))
    page = Page(text)
    assert "script" not in page.tags
    assert ["cpu", "2 of 2", "1", "3", "40 s", "13 completed, 1 failed"] in page.rows
    (busy,) = (row for row in page.rows if row[0] == "cpu-1")
    assert busy[1:4] == ["-", "busy", "//trainers/data:packing_test since 12 s"] and busy[5:] == ["7", "2"]
    (casd,) = (row for row in page.rows if row[0] == "casd")
    assert casd == ["casd", "running", "10 min", "restarted 2 times, last 2 min ago (terminated by SIGKILL)"]
    assert "1.23 GB of 30G" in text
    assert 'http-equiv="refresh"' in text


def test_asks_nobody_else():
    text = render(assemble(WANTED, facts()))
    assert set(Page(text).addresses) == {"data:,", "/status.json", "/metrics"}
    assert not re.search(r"url\(|@import|https?://", text)


def test_names_are_text():
    label = "//a:<script>alert(1)</script>"
    jobs = Jobs(
        sessions=(*JOBS.sessions, Session("<b>@far", "gpu", 1, AT + 28)), running=(Running("cpu-1", "<i>", label, AT),)
    )
    page = Page(render(assemble(WANTED, facts(jobs=jobs, restarts={"casd": Restarts(1, AT, "<u>")}))))
    assert not page.tags & {"script", "b", "i", "u"}
    assert any(row[:1] == ["<b>@far"] for row in page.rows)


def test_warnings():
    text = render(assemble(WANTED, facts(answers=False)))
    assert 'class="health down"' in text
    assert "the scheduler does not answer at 127.0.0.1:50051" in text

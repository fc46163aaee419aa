import subprocess
import sys
from pathlib import Path

import pytest

from third_party.python.finish_wheel import finish

RECORD = "tool/__init__.py,sha256=aa,3\n../../bin/tool,sha256=bb,9\ntool-1.dist-info/uv_cache.json,sha256=cc,1\n"


@pytest.fixture
def install(tmp_path):
    """Returns a function that lays out a wheel as uv installs it, and finishes it."""

    def make(name, record=RECORD, requirement="tool==1 --hash=sha256:1"):
        site = tmp_path / name / "site-packages"
        (site / "tool").mkdir(parents=True)
        (site / "tool/__init__.py").write_text("x = 1\n")
        (site / "tool/template.py").write_text("{{ not python }}\n")
        (site / "tool-1.dist-info").mkdir()
        (site / "tool-1.dist-info/RECORD").write_text(record)
        (site / "bin").mkdir()
        (site / "bin/script").write_text(f"#!{tmp_path}/{name}/python\n")
        (site / "bin/program").write_bytes(b"\x7fELF")
        (site / ".lock").touch()
        finish(site, tmp_path / name / "stamp.txt", requirement)
        return site, (tmp_path / name / "stamp.txt").read_text()

    return make


def test_stamp_is_the_same_wherever_the_wheel_is_installed(install):
    assert install("here")[1] == install("there", record="\n".join(reversed(RECORD.splitlines())))[1]


@pytest.mark.parametrize(
    "change", [{"record": RECORD.replace("aa", "ab")}, {"requirement": "tool==1 --hash=sha256:2"}], ids=str
)
def test_stamp_changes_with_content_and_lock(install, change):
    assert install("here")[1] != install("there", **change)[1]


def test_only_programs_stay_in_bin(install):
    site, _ = install("here")
    assert [path.name for path in (site / "bin").iterdir()] == ["program"]
    assert not (site / ".lock").exists()


def test_bytecode_is_used_whatever_the_time_of_the_source(install):
    site, _ = install("here")
    source = site / "tool/__init__.py"
    source.write_text("x = 2\n")  # unchecked: the bytecode compiled from x = 1 still counts
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import tool; print(tool.x)"
    assert subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout == "1\n"


def test_record_is_not_written_through_a_hard_link(install, tmp_path):
    cached = tmp_path / "cached"
    original = Path.write_text

    def link(self, text, *args, **kwargs):
        if self.name == "RECORD" and not cached.exists():
            original(cached, text)
            self.hardlink_to(cached)
            return len(text)
        return original(self, text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", link)
        install("here")
    assert cached.read_text() == RECORD

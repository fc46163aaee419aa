import re

from tools.remote.status import assemble
from tools.remote.status_example import JOBS, WANTED, facts
from tools.remote.status_metrics import render

_SAMPLE = re.compile(r"^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)')


def parse(text):
    """The samples of a text, strictly as version 0.0.4 of the format says; the HELP and TYPE of each family first."""
    assert text.endswith("\n")
    samples, types, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family, words = line[7:].split(" ", 1)
            assert words and family not in types
            types[family] = None
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == family and types[name] is None and kind in ("counter", "gauge")
            assert name.endswith("_total") == (kind == "counter")
            types[name] = kind
        else:
            name, labels, value = _SAMPLE.match(line).groups()
            assert name == family and types[name]
            pairs = _LABEL.findall(labels or "")
            assert "".join(match.group(0) for match in _LABEL.finditer(labels or "")) == (labels or "")
            key = (name, *(f"{label}={text}" for label, text in pairs))
            assert key not in samples
            samples[key] = float(value)
    assert all(types.values())
    return samples


def test_all_that_a_dashboard_needs():
    samples = parse(render(assemble(WANTED, facts())))
    assert samples["trainyard_health", "state=healthy"] == 1
    assert samples["trainyard_health", "state=down"] == 0
    assert samples["trainyard_queue_depth", "pool=cpu"] == 3
    assert samples["trainyard_queue_depth", "pool=trainium"] == 0
    assert samples["trainyard_queue_oldest_wait_seconds", "pool=cpu"] == 40
    assert samples["trainyard_workers", "pool=cpu", "state=busy"] == 1
    assert samples["trainyard_workers", "pool=gpu", "state=dead"] == 0
    assert samples["trainyard_jobs_total", "pool=cpu", "outcome=completed"] == 13
    assert samples["trainyard_jobs_total", "pool=cpu", "outcome=failed"] == 1
    assert samples["trainyard_worker_busy_seconds_total", "worker=cpu-1", "pool=cpu"] == 90.5
    assert samples["trainyard_worker_tests_total", "worker=cpu-1", "pool=cpu"] == 7
    assert samples["trainyard_process_restarts_total", "process=casd"] == 2
    assert samples["trainyard_process_up", "process=postgres"] == 1
    assert samples["trainyard_blob_bytes",] == 1_234_000_000
    assert samples["trainyard_blob_quota_bytes",] == 30_000_000_000


def test_names_are_escaped():
    session = JOBS.sessions[0].__class__('a"\\\n@far', "gpu", 1, JOBS.sessions[0].expires)
    jobs = JOBS.__class__(sessions=(*JOBS.sessions, session))
    samples = parse(render(assemble(WANTED, facts(jobs=jobs))))
    assert samples["trainyard_worker_tests_total", r"worker=a\"\\\n@far", "pool=gpu"] == 0


def test_cluster_that_is_down():
    samples = parse(render(assemble(WANTED, facts(processes=None, jobs=None, answers=False, blob_bytes=None))))
    assert samples["trainyard_health", "state=down"] == 1
    assert ("trainyard_blob_bytes",) not in samples

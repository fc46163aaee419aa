import json

import pytest

from tools.remote import job_store
from tools.remote.job_store import Jobs, Queue, Session, StoreError

ANSWER = {
    "sessions": [{"worker": "gpu-1", "pool": "gpu", "status": 1, "expires": 1800000000.5}],
    "queues": [{"pool": "gpu", "depth": 2, "oldest": 1799999999}],
    "running": [],
    "work": [],
    "outcomes": [],
}


def psql(tmp_path, script):
    program = tmp_path / "psql"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_what_postgresql_answers(tmp_path):
    program = psql(tmp_path, f"echo '{json.dumps(ANSWER)}'")
    found = job_store.read(program, tmp_path)
    assert found == Jobs((Session("gpu-1", "gpu", 1, 1800000000.5),), (Queue("gpu", 2, 1799999999),))


def test_no_answer(tmp_path):
    with pytest.raises(StoreError, match=f"PostgreSQL does not answer at {tmp_path}: no socket"):
        job_store.read(psql(tmp_path, "echo no socket >&2; exit 2"), tmp_path)
    with pytest.raises(StoreError, match="No such file"):
        job_store.read(tmp_path / "none", tmp_path)

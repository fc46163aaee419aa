import datetime

from tools.remote.cluster_logs import Restarts, restarts, silent_workers, tail

SUPERVISOR = """\
2026-11-26 16:00:00,000 INFO supervisord started with pid 1
2026-11-26 16:00:01,000 INFO spawned: 'casd' with pid 2
2026-11-26 16:00:02,000 WARN exited: casd (terminated by SIGSEGV; not expected)
2026-11-26 16:00:03,000 INFO spawned: 'casd' with pid 3
2026-11-26 17:00:00,123 INFO supervisord started with pid 10
2026-11-26 17:00:01,000 INFO spawned: 'casd' with pid 11
2026-11-26 17:00:01,001 INFO spawned: 'worker-gpu-1' with pid 12
2026-11-26 17:00:01,002 INFO success: casd entered RUNNING state, process has stayed up for > than 0 seconds (startsecs)
2026-11-26 17:00:05,000 WARN exited: casd (terminated by SIGKILL; not expected)
2026-11-26 17:00:06,000 INFO spawned: 'casd' with pid 13
2026-11-26 17:00:07,000 INFO exited: casd (exit status 0; expected)
2026-11-26 17:00:08,500 INFO spawned: 'casd' with pid 14
2026-11-26 17:00:09,000 INFO stopped: worker-gpu-1 (exit status 0)
2026-11-26 17:00:10,000 INFO spawned: 'worker-gpu-1' with pid 15
2026-11-26 17:00:11,000 WARN exited: postgres (exit status 1; not expected)
"""
SCHEDULER = (
    "2026-11-26 17:31:00,001 [buildgrid] WARNING: BotSession has expired. "
    'bot_id="gpu-1@far" deadline="2026-11-26 17:30:58.250000" instance_name="" name="/abc"\n'
    '... BotSession has expired. bot_id="cpu-1" deadline="2026-11-26 17:31:00" instance_name="" name="/abd"\n'
)


def test_counts_starts_that_nobody_asked_for():
    last = datetime.datetime(2026, 11, 26, 17, 0, 8).timestamp()
    assert restarts(SUPERVISOR) == {"casd": Restarts(2, last, "exit status 0; expected")}


def test_silent_workers_and_when_they_were_heard():
    heard = datetime.datetime(2026, 11, 26, 17, 30, 28, 250000, datetime.UTC).timestamp()
    assert silent_workers(SCHEDULER, 30) == {"gpu-1@far": heard, "cpu-1": heard + 1.75}


def test_tail_of_no_file_is_empty(tmp_path):
    assert tail(tmp_path / "no.log") == ""
    (tmp_path / "a.log").write_bytes(b"a\xff\n")
    assert tail(tmp_path / "a.log") == "a\N{REPLACEMENT CHARACTER}\n"

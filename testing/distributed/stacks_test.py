"""Reading faulthandler's text."""

from pathlib import Path

from testing.distributed import stacks
from testing.distributed.stacks import collective_of, read_threads, show

_FOLDER = Path(stacks.__file__).parent
_DUMP = f"""Thread 0x00007f0000000001 (most recent call first):
  File "{_FOLDER}/channel.py", line 90 in _read
  File "{_FOLDER}/rank.py", line 150 in _answer

Thread 0x00007f0000000002 (most recent call first):
  File "/lib/worker.py", line 4 in work

Current thread 0x00007f0000000003 (most recent call first):
  File "/lib/torch/distributed/distributed_c10d.py", line 10 in all_gather
  File "/lib/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/lib/torch/distributed/distributed_c10d.py", line 20 in all_gather_object
  File "/lib/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/tests/my_test.py", line 7 in helper
  File "{_FOLDER}/my_test.py", line 5 in test_it
  File "{_FOLDER}/call.py", line 90 in _call
  File "{_FOLDER}/rank.py", line 70 in run_rank
  File "/lib/pluggy.py", line 1 in hook
"""


def test_main_thread_first_without_harness():
    main, other = read_threads(_DUMP)
    assert [frame.function for frame in main][-2:] == ["helper", "test_it"]
    assert [frame.function for frame in other] == ["work"]


def test_only_the_last_dump_of_the_main_thread_counts():
    again = _DUMP.replace("line 7 in helper", "line 8 in helper")
    assert read_threads(_DUMP + again)[0] == read_threads(again)[0]


def test_collective_has_the_name_that_the_caller_used():
    main, other = read_threads(_DUMP)
    assert collective_of(main) == "all_gather_object"
    assert collective_of(other) is None


def test_shown_with_source_and_innermost_call_last(tmp_path):
    source = tmp_path / "example.py"
    source.write_text("first()\nsecond()\n")
    text = show([[stacks.Frame(str(source), 2, "inner"), stacks.Frame(str(source), 1, "outer")]])
    assert text.splitlines() == [
        f'  File "{source}", line 1, in outer',
        "    first()",
        f'  File "{source}", line 2, in inner',
        "    second()",
    ]


def test_nothing_written():
    assert read_threads("") == []

import os
from concurrent.futures.process import BrokenProcessPool

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.jsonl_blocks import blocks_of, map_in_processes


@given(
    lines=st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), max_size=8),
    size=st.integers(1, 12),
)
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_each_line_is_in_one_block_wherever_it_is_cut(tmp_path_factory, lines, size, ending):
    path = tmp_path_factory.mktemp("blocks") / "file"
    content = b"\n".join(lines) + ending
    path.write_bytes(content)
    blocks = blocks_of(path, size)
    assert sum(block.size for block in blocks) == len(content)
    found = [line for block in blocks for line in block.lines()]
    assert b"".join(line for _, line in found) == content
    assert all(line.count(b"\n") == 1 for _, line in found[:-1])
    assert all(content[offset : offset + len(line)] == line for offset, line in found)


def square_and_pid(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def die(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


def test_results_come_in_order_from_other_processes():
    squares, pids = zip(*map_in_processes(square_and_pid, range(50), 2), strict=True)
    assert list(squares) == [number**2 for number in range(50)]
    assert os.getpid() not in pids
    assert {pid for _, pid in map_in_processes(square_and_pid, range(50), 1)} == {os.getpid()}


def test_a_process_that_dies_is_an_error():
    with pytest.raises(BrokenProcessPool):
        list(map_in_processes(die, range(10), 2))


def test_leaving_early_ends_the_processes():
    results = map_in_processes(square_and_pid, range(1000), 2)
    _, pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

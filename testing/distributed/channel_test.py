"""Messages and open files between processes."""

import os
import threading

import pytest

from testing.distributed.channel import Channel


@pytest.fixture
def ends():
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


def test_both_ways(ends):
    left, right = ends
    left.send({"a": [1, 2]})
    assert right.receive() == ({"a": [1, 2]}, [])
    right.send("back")
    assert left.receive() == ("back", [])


def test_descriptors_stay_with_their_message(ends):
    left, right = ends
    files = [os.memfd_create(str(i)) for i in range(3)]
    for i, fd in enumerate(files):
        os.write(fd, bytes([i]))
    left.send("none")
    left.send("one", files[:1])
    left.send("two", files[1:])
    left.send("none again")
    received = [right.receive() for _ in range(4)]
    assert [(message, len(fds)) for message, fds in received] == [
        ("none", 0),
        ("one", 1),
        ("two", 2),
        ("none again", 0),
    ]
    fds = [fd for _, fds in received for fd in fds]
    assert [os.pread(fd, 1, 0) for fd in fds] == [b"\0", b"\1", b"\2"]
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in files + fds:
        os.close(fd)


def test_message_larger_than_the_socket(ends):
    left, right = ends
    message = os.urandom(5 << 20)
    thread = threading.Thread(target=left.send, args=(message,))
    thread.start()
    assert right.receive()[0] == message
    thread.join()


def test_pending_does_not_wait(ends):
    left, right = ends
    assert right.pending() == []
    left.send(1)
    left.send(2)
    assert right.pending() == [1, 2]
    left._socket.sendall(b"\0\0")  # the beginning of a header
    assert right.pending() == []


def test_the_end(ends):
    left, right = ends
    left.send("last")
    left.finish_sending()
    assert right.pending() == ["last"]
    with pytest.raises(EOFError):
        right.pending()
    right.send("still open this way")
    assert left.receive()[0] == "still open this way"
    left.close()
    with pytest.raises(EOFError):
        right.receive()
    with pytest.raises(EOFError):
        right.send("nobody")

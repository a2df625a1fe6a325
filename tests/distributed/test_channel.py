"""Messages between processes, and how the loss of one is noticed by all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from mlx_video.distributed.channel import Channel, EndOfWork
from mlx_video.distributed.wire import Message, Wire
from mlx_video.errors import ClusterError

NAMES = ("first", "second", "third")
LOST_AFTER = 1.0


@dataclass
class Three:
    """Channels of three processes, as they would be in three.

    Attributes:
        far: connections of rank 0, to be ended like those of a process that is killed.
    """

    channels: list[Channel]
    far: dict[int, socket.socket]
    abandoned: list[int]


def connect_pair(seconds: float) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, with a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), seconds)
        far, _ = listener.accept()
    far.settimeout(seconds)
    return near, far


@pytest.fixture
def three() -> Iterator[Three]:
    pairs = {rank: connect_pair(LOST_AFTER) for rank in (1, 2)}
    abandoned: list[int] = []

    def channel(rank: int, wires: dict[int, Wire]) -> Channel:
        return Channel(wires, NAMES.__getitem__, LOST_AFTER, lambda: abandoned.append(rank))

    channels = [channel(0, {rank: Wire(near) for rank, (near, _) in pairs.items()})]
    channels += [channel(rank, {0: Wire(far)}) for rank, (_, far) in pairs.items()]
    with ExitStack() as stack:
        for one in channels:
            stack.callback(one.end)
        yield Three(channels, {rank: far for rank, (_, far) in pairs.items()}, abandoned)


def test_messages_arrive_whole_and_in_order(three: Three):
    blobs = [bytes(range(256)) * 20000, b""]
    three.channels[0].send_all("make", blobs, text="ä", numbers=[1, 2.5, None])
    three.channels[0].send(1, "more")
    for rank in (1, 2):
        message = three.channels[rank].receive(0)
        assert message == Message("make", {"text": "ä", "numbers": [1, 2.5, None]}, blobs)
        three.channels[rank].send(0, "made", by=rank)
    assert three.channels[1].receive(0).do == "more"
    answers = three.channels[0].receive_all()
    assert {rank: answer.values["by"] for rank, answer in answers.items()} == {1: 1, 2: 2}


def test_signs_of_life_keep_a_quiet_process_from_being_lost(three: Three):
    time.sleep(2.5 * LOST_AFTER)
    assert three.channels[0].present == (1, 2)
    assert [each.present for each in three.channels[1:]] == [(0,), (0,)]


def test_a_process_that_ends_is_named_to_all_others(three: Three):
    three.far[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(ClusterError, match="second has ended."):
        three.channels[0].receive(2)
    until(lambda: {0, 2} <= set(three.abandoned))
    with pytest.raises(ClusterError, match="second has ended."), three.channels[2].collective():
        pass


def until(is_so, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_that_hangs_is_lost_after_a_while():
    near, far = connect_pair(0.3)
    channel = Channel({1: Wire(near)}, NAMES.__getitem__, 0.3)
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=r"second gave no sign of life for too long \(--lost-after\)"):
        channel.receive(1)
    assert 0.2 < time.monotonic() - begun < 3
    channel.end()
    far.close()


def test_a_process_that_fails_tells_why_and_waits_until_rank_0_has_ended(three: Three):
    failing = threading.Thread(target=three.channels[2].fail, args=("no disk.",))
    failing.start()
    with pytest.raises(ClusterError, match="third has failed: no disk."):
        three.channels[0].receive(2)
    assert failing.is_alive()
    three.channels[0].end()
    failing.join(5)
    assert not failing.is_alive()


def test_the_end_of_rank_0_is_no_loss(three: Three):
    three.channels[0].send_all("make")
    three.channels[0].end()
    for channel in three.channels[1:]:
        assert channel.receive(0).do == "make"
        with pytest.raises(EndOfWork):
            channel.receive(0)
    assert three.abandoned == []


def test_another_process_that_is_stopped_is_lost(three: Three):
    three.channels[1].end()
    for channel, rank in ((three.channels[0], 1), (three.channels[2], 0)):
        with pytest.raises(ClusterError, match="second was stopped."):
            channel.receive(rank)


def test_a_loss_can_be_of_one_process_alone(three: Three):
    three.channels[0].tolerates_loss = True
    three.far[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(ClusterError, match="second has ended."):
        three.channels[0].receive(1)
    three.channels[2].send(0, "made")
    assert three.channels[0].receive(2).do == "made"
    assert three.channels[0].present == (2,)


def test_an_error_of_the_links_names_the_lost_process_and_others_are_left_alone(three: Three):
    with pytest.raises(RuntimeError, match="shapes"), three.channels[0].collective():
        raise RuntimeError("shapes do not fit")
    threading.Timer(0.1, three.far[1].shutdown, [socket.SHUT_RDWR]).start()
    with pytest.raises(ClusterError, match="second has ended."), three.channels[0].collective():
        raise RuntimeError("[ring] connection to a peer was lost")


def test_what_is_no_message_is_refused():
    near, far = connect_pair(1)
    far.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="a header of"):
        Wire(near).receive()
    near.close()
    far.close()

"""What the processes of a group exchange: arrays gathered and summed, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx


@dataclass(slots=True)
class Traffic:
    """What a process has sent so far.

    Attributes:
        nbytes: of all messages.
        messages: exchanges that it took part in.
    """

    nbytes: int = 0
    messages: int = 0

    def add(self, nbytes: int) -> None:
        """Count one exchange."""
        self.nbytes += nbytes
        self.messages += 1


@dataclass(frozen=True)
class Collectives:
    """Exchanges among all processes of a group, each begun at once, on a stream of their own.

    Every process must make the same calls in the same order. Exchanges of others in the same group must be
    over before one begins here, and the other way round: evaluate what they give.

    Attributes:
        group: of `mx.distributed`.
        traffic: what this process has sent.
    """

    group: mx.distributed.Group
    traffic: Traffic = field(default_factory=Traffic)
    _stream: mx.Stream = field(default_factory=lambda: mx.new_stream(mx.cpu))

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.group.size()

    def gather(self, x: mx.array) -> mx.array:
        """Put the arrays of all processes behind each other along axis 0.

        Args:
            x: [m, ...], the same shape everywhere.

        Returns:
            [P·m, ...] by rank, under way.
        """
        self.traffic.add((self.size - 1) * x.nbytes)
        gathered = mx.distributed.all_gather(x, group=self.group, stream=self._stream)
        mx.async_eval(gathered)
        return gathered

    def sum(self, x: mx.array) -> mx.array:
        """Add up the arrays of all processes.

        Args:
            x: the same shape everywhere.

        Returns:
            The same shape, under way. On some links the bits depend on the rank.
        """
        # Each part is added up while it goes around, and goes around once more.
        self.traffic.add(2 * (self.size - 1) * x.nbytes // self.size)
        total = mx.distributed.all_sum(x, group=self.group, stream=self._stream)
        mx.async_eval(total)
        return total


@dataclass(frozen=True)
class NeighbourCollectives(Collectives):
    """Exchanges among some neighbouring ranks of a group, for links that know no smaller groups.

    Each array goes from neighbour to neighbour in both directions. Of two ranks each sends its own once.

    Attributes:
        first: the lowest rank.
        count: how many they are.
    """

    first: int = 0
    count: int = 1
    _further_streams: tuple[mx.Stream, ...] = field(
        # Whoever sends waits until it is received: all directions at once, else two wait for each other.
        default_factory=lambda: tuple(mx.new_stream(mx.cpu) for _ in range(3))
    )

    @property
    def rank(self) -> int:
        """Of this process among these, from 0."""
        return self.group.rank() - self.first

    @property
    def size(self) -> int:
        """How many they are."""
        return self.count

    def gather(self, x: mx.array) -> mx.array:
        """See :class:`Collectives`."""
        rightward, leftward, from_left, from_right = (self._stream, *self._further_streams)
        parts, sent = {self.rank: x}, list[mx.array]()
        for distance in range(1, self.size):
            sent += self._send(parts.get(self.rank - distance + 1), self.rank + 1, rightward)
            sent += self._send(parts.get(self.rank + distance - 1), self.rank - 1, leftward)
            for source, neighbour, stream in (
                (self.rank - distance, self.rank - 1, from_left),
                (self.rank + distance, self.rank + 1, from_right),
            ):
                if 0 <= source < self.size:
                    parts[source] = mx.distributed.recv_like(
                        x, self.first + neighbour, group=self.group, stream=stream
                    )
                    mx.async_eval(parts[source])
        joined = mx.concatenate([parts[rank] for rank in range(self.size)])
        # Over when what this process sends is, too: nothing else may overtake it.
        return mx.depends(joined, sent) if sent else joined

    def sum(self, x: mx.array) -> mx.array:
        """See :class:`Collectives`."""
        return self.gather(x[None]).sum(axis=0)

    def _send(self, x: mx.array | None, neighbour: int, stream: mx.Stream) -> list[mx.array]:
        if x is None or not 0 <= neighbour < self.size:
            return []
        self.traffic.add(x.nbytes)
        sent = mx.distributed.send(x, self.first + neighbour, group=self.group, stream=stream)
        mx.async_eval(sent)
        return [sent]


def split_group(group: mx.distributed.Group, size: int, traffic: Traffic | None = None) -> Collectives:
    """Exchanges of this process with those beside it, when a group is cut into smaller ones.

    Args:
        group: all of whose processes call this.
        size: of the smaller groups: ranks 0 to `size` - 1 are the first, and so on.
        traffic: counts what this process sends.

    Raises:
        ValueError: the group cannot be cut so.
    """
    if size < 1 or group.size() % size:
        raise ValueError(f"{group.size()} processes cannot be cut into groups of {size}")
    number = group.rank() // size
    traffic = traffic or Traffic()
    try:
        return Collectives(group.split(number), traffic)
    except (RuntimeError, ValueError):  # the ring and JACCL have none
        return NeighbourCollectives(group, traffic, first=number * size, count=size)

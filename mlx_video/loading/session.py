"""Networks in memory: lent to runs, and kept from one run to the next where that was planned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Network = TypeVar("Network")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """What tells a network in memory from every other.

    Attributes:
        name: of the network, as in the memory plan.
        content: whatever decides its numbers, and how they are kept: files, sizes, adapters, streaming.
    """

    name: str
    content: Hashable = None


@dataclass(slots=True)
class _Loan:
    """A network in memory.

    Attributes:
        network: what its users get.
        contexts: hold its memory and its files.
        nbytes: that it takes while it is not at work.
        users: runs that use it now, suspended ones among them.
        may_stay: false once something went wrong while it was used, or its release was asked for.
    """

    network: Any
    contexts: ExitStack
    nbytes: int
    users: int = 0
    may_stay: bool = True


class Session:
    """Opens networks for runs, lends them, and keeps some between their uses.

    Runs that are suspended in turns may use a network together: none of them changes it, and it is not
    released before the last of them has given it back. Which network stays after that, its last user says.

    Args:
        keeps: whether any network outlives its use.

    Attributes:
        keeps: as given; false once the session is closed.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self.keeps = keeps
        self._loans: dict[NetworkKey, _Loan] = {}  # the most recently used one comes last

    @contextmanager
    def lend(
        self,
        key: NetworkKey,
        open_network: Callable[[], AbstractContextManager[Network]],
        *,
        weigh: Callable[[Network], int],
        keep: bool = False,
    ) -> Iterator[Network]:
        """Lend a network for the length of a `with` block; one that is in memory is not opened again.

        An error in the block has the network released rather than kept, since it may be the cause. A run that
        is left between two events, or interrupted, is none.

        Args:
            key: what tells the network from others.
            open_network: reads it from its files; its memory is free when the context is left.
            weigh: the bytes that it takes while it is not at work.
            keep: whether it stays when its last user gives it back.
        """
        loan = self._borrow(key, open_network, weigh)
        try:
            yield loan.network
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException:
            loan.may_stay = False
            raise
        finally:
            loan.users -= 1
            if not loan.users and not (self.keeps and keep and loan.may_stay):
                self._release(key)

    def holds(self, key: NetworkKey) -> bool:
        """Whether a network is in memory."""
        return key in self._loans

    def idle(self) -> dict[NetworkKey, int]:
        """The networks that no run uses now, and their bytes; the most recently used one comes last."""
        return {key: loan.nbytes for key, loan in self._loans.items() if not loan.users}

    def lent(self) -> dict[NetworkKey, int]:
        """The networks that a run uses now, and their bytes."""
        return {key: loan.nbytes for key, loan in self._loans.items() if loan.users}

    def release_others(self, kept: Collection[Hashable]) -> None:
        """Release every network that no run uses, but for some."""
        for key in self.idle():
            if key not in kept:
                self._release(key)

    def release(self) -> None:
        """Release every network: at once, or when the last run that uses it gives it back."""
        for loan in self._loans.values():
            loan.may_stay = False
        self.release_others(())

    def close(self) -> None:
        """Release every network as `release` does, and keep none from now on."""
        self.keeps = False
        self.release()

    def _borrow(
        self,
        key: NetworkKey,
        open_network: Callable[[], AbstractContextManager[Network]],
        weigh: Callable[[Network], int],
    ) -> _Loan:
        loan = self._loans.pop(key, None)
        if loan is None:
            with ExitStack() as opening:
                network = opening.enter_context(open_network())
                loan = _Loan(network, opening.pop_all(), weigh(network))
            log.debug("%s: opened", key.name)
        else:
            log.debug("%s: in memory already", key.name)
        self._loans[key] = loan
        loan.users += 1
        return loan

    def _release(self, key: NetworkKey) -> None:
        loan = self._loans.pop(key)
        loan.network = None
        loan.contexts.close()
        log.debug("%s: released", key.name)

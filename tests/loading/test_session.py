"""Lending networks: opened once, shared, and released as soon as nobody needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from mlx_video.loading.session import NetworkKey, Session

A, B = NetworkKey("a"), NetworkKey("b")


class Shelf:
    """Networks that are opened, and what happened to them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def open(self, name: str) -> Iterator[str]:
        self.log.append(f"open {name}")
        try:
            yield name.upper()
        finally:
            self.log.append(f"release {name}")

    def lend(self, session: Session, key: NetworkKey, *, keep: bool) -> AbstractContextManager[str]:
        return session.lend(
            key, lambda: self.open(key.name), weigh=lambda network: 10 * len(network), keep=keep
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def use(shelf: Shelf, session: Session, key: NetworkKey, *, keep: bool = True) -> None:
    with shelf.lend(session, key, keep=keep) as network:
        assert network == key.name.upper()


def test_a_network_is_kept_if_session_and_user_say_so(shelf: Shelf):
    for keeps, keep in ((False, True), (True, False)):
        session = Session(keeps=keeps)
        use(shelf, session, A, keep=keep)
        assert not session.holds(A)
    session = Session(keeps=True)
    for _ in range(2):
        use(shelf, session, A)
    assert session.idle() == {A: 10}
    assert shelf.log == ["open a", "release a"] * 2 + ["open a"]


def test_users_share_a_network_and_the_last_one_says_whether_it_stays(shelf: Shelf):
    session = Session(keeps=True)
    for last_keeps in (True, False):
        first = shelf.lend(session, A, keep=not last_keeps)
        last = shelf.lend(session, A, keep=last_keeps)
        first.__enter__(), last.__enter__()
        assert (session.lent(), session.idle()) == ({A: 10}, {})
        first.__exit__(None, None, None)
        session.release_others(())
        assert session.holds(A)
        last.__exit__(None, None, None)
        assert session.holds(A) == last_keeps
    assert shelf.log == ["open a", "release a"]


def test_a_network_that_cannot_be_opened_is_not_held(shelf: Shelf):
    @contextmanager
    def fail() -> Iterator[str]:
        raise OSError("gone")
        yield ""

    session = Session(keeps=True)
    with pytest.raises(OSError, match="gone"), session.lend(A, fail, weigh=len, keep=True):
        pass
    assert not session.holds(A)


@pytest.mark.parametrize(("error", "stays"), [(ValueError, False), (KeyboardInterrupt, True)])
def test_an_error_while_a_network_is_used_has_it_released(
    shelf: Shelf, error: type[BaseException], stays: bool
):
    session = Session(keeps=True)
    with pytest.raises(error), shelf.lend(session, A, keep=True):
        raise error
    assert session.holds(A) == stays


def test_a_run_that_is_left_is_no_error(shelf: Shelf):
    session = Session(keeps=True)

    def work() -> Iterator[int]:
        with shelf.lend(session, A, keep=True):
            yield 1

    running = work()
    next(running)
    running.close()
    assert session.holds(A)


def test_others_are_released_and_the_most_recently_used_one_comes_last(shelf: Shelf):
    session = Session(keeps=True)
    for key in (A, B, A):
        use(shelf, session, key)
    assert list(session.idle()) == [B, A]
    session.release_others({B})
    assert session.idle() == {B: 10}


def test_what_is_in_use_is_released_when_it_is_given_back(shelf: Shelf):
    for release in (Session.release, Session.close):
        session = Session(keeps=True)
        use(shelf, session, B)
        with shelf.lend(session, A, keep=True):
            release(session)
            assert session.lent() == {A: 10}
            assert not session.holds(B)
        assert not session.holds(A)
        use(shelf, session, A)
        assert session.holds(A) == (release is Session.release)

# SPDX-License-Identifier: Apache-2.0
"""turn.py by hand: one thread at a time, for as long as the frame that took the turn runs."""

import threading

from tokenprune_adapters.transformers.turn import Turn

PATIENCE = 20


def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_the_same_thread_comes_in_again():
    turn = Turn()
    assert not turn.held()
    assert turn.take() is True and turn.held()
    assert turn.take() is False
    turn.give()
    assert not turn.held()
    assert turn.take() is True


def test_another_thread_waits_until_it_is_given():
    turn, order = Turn(), []
    turn.take()

    def other():
        turn.take()
        order.append("other")
        turn.give()

    thread = start(other)
    thread.join(0.3)
    assert thread.is_alive() and order == []
    order.append("first")
    turn.give()
    thread.join(PATIENCE)
    assert order == ["first", "other"]


def test_a_turn_ends_with_the_function_that_took_it():
    turn = Turn()

    def forgetful():
        assert turn.take() and turn.held()

    forgetful()
    assert not turn.held()
    got = []
    start(lambda: got.append(turn.take())).join(PATIENCE)
    assert got == [True]


def test_a_turn_may_belong_to_a_caller_by_its_file():
    turn = Turn()

    def deep():
        return turn.take(__file__)

    assert deep() and not turn.held()  # the nearest caller in this file is gone


def test_a_thread_that_ended_holds_no_turn():
    turn = Turn()
    start(turn.take).join(PATIENCE)
    assert not turn.held() and turn.take()


def test_only_who_has_the_turn_gives_it():
    turn = Turn()
    turn.take()
    start(turn.give).join(PATIENCE)
    assert turn.held()
    turn.give()


def test_a_turn_that_was_never_given_is_not_the_next_calls():
    """Each call has a frame of its own, often where the last one's was in memory."""
    turn = Turn()

    def forgetful():
        return turn.take()

    assert [forgetful() for _ in range(20)] == [True] * 20

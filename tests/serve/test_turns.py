"""Answers take turns: who waits for whom, and that no answer changes another one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from transformers import StoppingCriteriaList

from moiety.serve.answer import HandsOn
from moiety.serve.turns import Ended, Turns
from tests.serve.live import wait_until
from tests.tiny import FAMILIES, sparse


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_answers_about_different_pictures_keep_their_positions(name: str) -> None:
    """These families leave the offset of their last picture on a module."""
    family, model = FAMILIES[name], sparse(name)
    turns, said = Turns(), dict[str, Any]()
    prompts = {text: family.batch(text) for text in ("tIt", "tttt", "IIt")}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    alone = {text: model.generate(**prompt, **options) for text, prompt in prompts.items()}
    together = threading.Barrier(len(prompts))

    def answer(text: str) -> None:
        together.wait(10)
        with turns.taken() as hand_on:
            criteria = StoppingCriteriaList([HandsOn(hand_on, model.device)])
            said[text] = model.generate(**prompts[text], **options, stopping_criteria=criteria)

    threads = [threading.Thread(target=answer, args=(text,)) for text in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(said[text].equal(alone[text]) for text in prompts)


def test_the_first_ones_share_and_the_others_wait_for_an_end() -> None:
    turns, made = Turns(most=2), list[str]()
    lengths = {"a": 6, "b": 2, "c": 2}
    begin = {name: threading.Event() for name in lengths}

    def answer(name: str) -> None:
        with turns.taken() as hand_on:
            begin[name].wait(10)
            for _ in range(lengths[name]):
                made.append(name)
                hand_on()

    threads = []
    for number, name in enumerate(lengths):
        threads.append(threading.Thread(target=answer, args=(name,)))
        threads[-1].start()
        wait_until(lambda number=number: turns.num_answers == number + 1)
    for event in begin.values():
        event.set()
    for thread in threads:
        thread.join(10)
    assert "".join(made) == "abab" + "aa" + "caca"
    assert turns.num_answers == 0


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_brief_work_waits_for_no_answer_and_who_left_leaves_the_line() -> None:
    turns, made, left = Turns(most=1), list[str](), threading.Event()

    def work(name: str, **about: Any) -> None:
        try:
            with turns.taken(**about):
                made.append(name)
        except Ended:
            made.append(f"{name} ended")

    with turns.taken() as hand_on:
        threads = []
        for number, (name, about) in enumerate(
            [("answer", {}), ("left", {"given_up": left.is_set}), ("a", {"is_brief": True}), ("b", {"is_brief": True})]
        ):
            threads.append(in_thread(lambda name=name, about=about: work(name, **about)))
            wait_until(lambda number=number: turns.num_answers == number + 2)
        hand_on()
        assert made == ["a", "b"]
        left.set()
        hand_on()
        wait_until(lambda: made == ["a", "b", "left ended"])
    for thread in threads:
        thread.join(10)
    assert made == ["a", "b", "left ended", "answer"]


def test_whoever_fails_hands_on_too() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.taken():
        _ = 1 / 0
    with turns.taken() as hand_on:
        hand_on()
    assert turns.num_answers == 0


def test_the_end_is_for_all() -> None:
    turns = Turns()
    with turns.taken() as hand_on:
        turns.end()
        with pytest.raises(Ended):
            hand_on()
    with pytest.raises(Ended), turns.taken():
        pass
    assert turns.num_answers == 0

"""Answers take turns: nobody waits for the end of another one's answer, and none of them notices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from moiety.app.session import ANSWERING, CLOSING, Said, Session
from moiety.app.turns import Ended, Turns
from tests import model_folders
from tests.tiny import FAMILIES, sparse


def two_sessions() -> tuple[Session, Session]:
    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    folder = model_folders.sparse_folder()
    model, processor = load(folder).eval(), load_processor(folder, marks=False)
    turns, pictures = Turns(model), model_folders.picture_file().parent
    return Session(model, processor, pictures, turns), Session(model, processor, pictures, turns)


def asked(session: Session, question: str, longest: int) -> list[Said]:
    return list(session.ask(str(model_folders.picture_file()), question, longest))


def test_a_short_question_is_answered_while_a_long_one_is() -> None:
    slow, quick = two_sessions()
    alone = asked(quick, "Is there a blue square?", 3)[-1].history
    quick.clear()
    shown = slow.ask(str(model_folders.picture_file()), "Where is the red circle?", 400)
    next(shown)
    next(shown)  # its first words are there
    while_slow = asked(quick, "Is there a blue square?", 3)
    assert while_slow[-1].history == alone
    slow.stop()
    assert list(shown)[-1].note == "Stopped."


def test_answers_in_turns_are_those_of_answers_alone() -> None:
    sessions = two_sessions()
    questions = ("Where is the red circle?", "Is there a blue square?")
    alone = []
    for session, question in zip(sessions, questions, strict=True):
        asked(session, question, 12)
        assert session.reading is not None
        alone.append((session.history(), session.reading.observation))
        session.clear()
    threads = [
        threading.Thread(target=asked, args=(*pair, 12)) for pair in zip(sessions, questions, strict=True)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for session, (history, seen) in zip(sessions, alone, strict=True):
        assert session.history() == history
        assert session.reading is not None
        now = session.reading.observation
        assert now.generated == seen.generated
        assert all(now.phases["decode"][layer].index.equal(seen.phases["decode"][layer].index) for layer in seen.layers)


class HandsOn(StoppingCriteria):
    """Hands the model on after each token."""

    def __init__(self, hand_on: Callable[[], None]) -> None:
        self.hand_on = hand_on

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self.hand_on()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_answers_about_different_pictures_keep_their_positions(name: str) -> None:
    """These families leave the offset of their last picture on a module."""
    family, model = FAMILIES[name], sparse(name)
    turns, said = Turns(model), dict[str, Any]()
    prompts = {text: family.batch(text) for text in ("tIt", "tttt", "IIt")}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    alone = {text: model.generate(**prompt, **options) for text, prompt in prompts.items()}
    together = threading.Barrier(len(prompts))

    def answer(text: str) -> None:
        together.wait(10)
        with turns.taken() as hand_on:
            criteria = StoppingCriteriaList([HandsOn(hand_on)])
            said[text] = model.generate(**prompts[text], **options, stopping_criteria=criteria)

    threads = [threading.Thread(target=answer, args=(text,)) for text in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(said[text].equal(alone[text]) for text in prompts)


def test_a_page_that_closes_ends_every_answer() -> None:
    slow, waiting = two_sessions()
    shown = slow.ask(str(model_folders.picture_file()), "Where?", 1000)
    next(shown)
    next(shown)
    slow.turns.end()
    assert list(shown)[-1].note == CLOSING
    assert asked(waiting, "Where?", 3)[-1].note == CLOSING
    with pytest.raises(Ended), slow.turns.taken():
        pass


def test_one_talk_has_one_answer_at_a_time() -> None:
    session, _ = two_sessions()
    shown = session.ask(str(model_folders.picture_file()), "Where?", 200)
    next(shown)
    (said,) = asked(session, "And?", 3)
    assert (said.note, said.is_error) == (ANSWERING, True)
    shown.close()
    assert not asked(session, "And?", 3)[-1].is_error

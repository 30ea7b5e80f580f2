"""Answers take turns: nobody waits for the end of another one's answer, and none of them notices."""

from __future__ import annotations

import threading

from moiety.app.session import ANSWERING, CLOSING, Said, Session
from moiety.serve.turns import Turns
from tests import model_folders


def two_sessions() -> tuple[Session, Session]:
    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    folder = model_folders.sparse_folder()
    model, processor = load(folder).eval(), load_processor(folder, marks=False)
    turns, pictures = Turns(), model_folders.picture_file().parent
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


def test_a_page_that_closes_ends_every_answer() -> None:
    slow, waiting = two_sessions()
    shown = slow.ask(str(model_folders.picture_file()), "Where?", 1000)
    next(shown)
    next(shown)
    slow.turns.end()
    assert list(shown)[-1].note == CLOSING
    assert asked(waiting, "Where?", 3)[-1].note == CLOSING


def test_one_talk_has_one_answer_at_a_time() -> None:
    session, _ = two_sessions()
    shown = session.ask(str(model_folders.picture_file()), "Where?", 200)
    next(shown)
    (said,) = asked(session, "And?", 3)
    assert (said.note, said.is_error) == (ANSWERING, True)
    shown.close()
    assert not asked(session, "And?", 3)[-1].is_error

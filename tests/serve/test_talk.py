"""OpenAI's client talks with a live server, and hears what ``moiety chat`` and ``evaluate`` would say."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("openai", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import openai
from starlette.requests import ClientDisconnect

from moiety.chat import Conversation
from moiety.evaluate.run import answer_rows
from moiety.serve.answer import settled
from moiety.serve.request import read_request
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from tests import model_folders
from tests.serve.live import SHORT, client, data_url, running, user, wait_until

FOLDERS = {"moiie": model_folders.sparse_folder, "asymoe": model_folders.asymoe_folder}
every_scheme = pytest.mark.parametrize("server", FOLDERS, indirect=True)
QUESTION, SECOND = "Where is the red circle?", "Is there a blue square?"


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    folder = FOLDERS[getattr(request, "param", "moiie")]()
    with running(folder) as server:
        server.folder = folder
        yield server


@pytest.fixture
def chat(server: Any) -> Conversation:
    return Conversation(load(server.folder), load_processor(server.folder), max_new_tokens=SHORT.max_new_tokens)


def ask(server: Any, messages: list[Any], **more: Any) -> Any:
    with client(server) as talk:
        return talk.chat.completions.create(model="tiny", messages=messages, **more)


def pieces_of(server: Any, messages: list[Any], **more: Any) -> list[Any]:
    with client(server) as talk:
        return list(talk.chat.completions.create(messages=messages, stream=True, **{"model": "tiny", **more}))


def joined(pieces: list[Any]) -> str:
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)


@every_scheme
def test_a_conversation_about_pictures_is_that_of_chat(server: Any, chat: Conversation) -> None:
    messages: list[Any] = [user(QUESTION, data_url())]
    chat.add_image(model_folders.picture())
    first = ask(server, messages)
    assert first.choices[0].message.content == chat.ask(QUESTION)
    messages += [first.choices[0].message, user(SECOND, data_url())]
    chat.add_image(model_folders.picture())
    expected = chat.ask(SECOND)
    assert ask(server, messages).choices[0].message.content == expected
    assert joined(pieces_of(server, messages)) == expected
    assert expected


@every_scheme
def test_a_picture_is_looked_at(server: Any) -> None:
    upside_down = data_url(model_folders.picture().rotate(180))
    asked = [[user(text, url) for url in (data_url(), upside_down)] for text in (QUESTION, SECOND)]
    texts = [[ask(server, [one]).choices[0].message.content for one in both] for both in asked]
    assert any(first != second for first, second in texts)


@every_scheme
def test_a_question_without_picture_is_that_of_evaluate(server: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    row = Row("one", (Turn("system", "Be brief."), Turn("user", QUESTION)))
    (expected,) = answer_rows(
        load(server.folder), load_processor(server.folder), [row], {}, batch_size=1, max_new_tokens=6
    ).values()
    assert ask(server, messages).choices[0].message.content == expected
    assert joined(pieces_of(server, messages)) == expected


@pytest.mark.parametrize("server", ["asymoe"], indirect=True)
def test_earlier_answers_are_no_evidence(server: Any) -> None:
    turns = ((QUESTION, "user"), ("top left", "assistant"), (SECOND, "user"))
    entry = {"messages": [{"role": role, "content": text} for text, role in turns]}
    inputs = server.handler.prepare(read_request(json.dumps(entry).encode(), "tiny", SHORT), [])
    decode = server.handler.processor.tokenizer.decode
    read, hidden = (decode(inputs["input_ids"][inputs["evidence_mask"].bool() == kept]) for kept in (True, False))
    assert QUESTION in read
    assert SECOND in read
    assert "top left" in hidden
    assert "top left" not in read


def _gathered(pieces: list[Any]) -> dict[str, Any]:
    """An answer put together from the fields of its pieces, as people do."""
    answer: dict[str, Any] = {}
    for piece in pieces:
        for name, value in piece.choices[0].delta.model_dump().items():
            answer[name] = answer.get(name, "") + value if name == "content" and value else answer.get(name, value)
    return answer


def test_an_answer_can_be_sent_back_in_every_form_of_the_client(server: Any, chat: Conversation) -> None:
    whole = chat.ask(QUESTION)
    stop = whole[len(whole) // 2]  # parse and stream of the client refuse an answer that was cut by its length
    chat.turns[-1] = Turn("assistant", whole[: whole.index(stop)].strip())
    expected = chat.ask(SECOND)
    asked: dict[str, Any] = {"model": "tiny", "messages": [user(QUESTION)], "stop": stop}
    with client(server) as talk:
        message = talk.chat.completions.create(**asked).choices[0].message
        parsed = talk.chat.completions.parse(**asked).choices[0].message
        with talk.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0].message
        forms = [
            message,
            message.to_dict(),
            json.loads(message.model_dump_json()),
            _gathered(pieces_of(server, **asked)),
        ]
        for answer in (message, parsed, streamed):
            forms += [answer.model_dump(), answer.model_dump(exclude_none=True), answer.model_dump(exclude_unset=True)]
        for form in forms:
            assert ask(server, [user(QUESTION), form, user(SECOND)]).choices[0].message.content == expected, form


@every_scheme
def test_an_empty_answer_is_a_turn_like_others(server: Any, chat: Conversation) -> None:
    first = ask(server, [user(QUESTION)]).choices[0].message.content
    empty = ask(server, [user(QUESTION)], stop=first[0]).choices[0].message
    assert empty.content == ""
    chat.turns = [Turn("user", QUESTION), Turn("assistant", "")]
    expected = chat.ask(SECOND)
    for form in (empty, empty.model_dump(), {"role": "assistant", "content": None}, {"role": "assistant"}):
        assert ask(server, [user(QUESTION), form, user(SECOND)]).choices[0].message.content == expected


def test_tokens_and_ends_are_counted(server: Any) -> None:
    whole = ask(server, [user(QUESTION, data_url())], max_tokens=3)
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (3, "length")
    parts = [{"type": "image", "image": model_folders.picture()}, {"type": "text", "text": "\n" + QUESTION}]
    inputs = load_processor(server.folder).apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True, return_dict=True, add_generation_prompt=True,
    )  # fmt: skip
    assert whole.usage.prompt_tokens == len(inputs["input_ids"][0])
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 3
    last = pieces_of(server, [user(QUESTION, data_url())], max_tokens=3)[-1]
    assert (last.usage, last.choices[0].finish_reason) == (whole.usage, "length")


def test_a_stream_ends_as_openai_s_do(server: Any) -> None:
    body = {"messages": [user(QUESTION, data_url())], "stream": True}
    lines = httpx.post(server.url + "/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]


def test_a_seed_fixes_what_is_sampled(server: Any) -> None:
    def sampled(seed: int) -> str:
        return (
            ask(server, [user(QUESTION)], temperature=1.5, top_p=0.9, seed=seed, max_tokens=4)
            .choices[0]
            .message.content
        )

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert (
        ask(server, [user(QUESTION)], temperature=0, seed=1).choices[0].message.content
        == ask(server, [user(QUESTION)]).choices[0].message.content
    )


def test_an_answer_ends_before_its_stop(server: Any) -> None:
    messages = [user(QUESTION, data_url())]
    whole = ask(server, messages).choices[0].message.content
    stop = whole[len(whole) // 2]
    cut = ask(server, messages, stop=[stop, "never there"])
    assert cut.choices[0].message.content == whole[: whole.index(stop)].strip()
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 6
    assert joined(pieces_of(server, messages, stop=stop)) == cut.choices[0].message.content


def test_many_at_once_hear_what_each_would_hear_alone(server: Any) -> None:
    asked = [[user(f"{QUESTION} {number}", data_url())] for number in range(3)]
    alone = [ask(server, messages).choices[0].message.content for messages in asked]
    with ThreadPoolExecutor(3) as pool:
        whole = pool.map(lambda messages: ask(server, messages).choices[0].message.content, asked)
        streamed = pool.map(lambda messages: joined(pieces_of(server, messages)), asked)
        assert [list(whole), list(streamed)] == [alone, alone]
    wait_until(lambda: httpx.get(server.url + "/health").json() == {"status": "ok", "waiting": 0})


def test_the_python_of_the_page_runs(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "http://127.0.0.1:8000" in program
    model_folders.picture().save(tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:8000", server.url), names)
    names["client"].close()
    answer = names["answer"].choices[0].message.content
    assert capsys.readouterr().out == f"{answer} 6\n{answer}"


def test_models_are_a_list_of_one(server: Any) -> None:
    with client(server) as talk:
        assert [model.id for model in talk.models.list()] == ["tiny"]
        assert talk.models.retrieve("tiny").owned_by == "moiety"
        with pytest.raises(openai.NotFoundError, match="no such model here; known: tiny"):
            talk.models.retrieve("other")


def test_who_leaves_stops_the_model() -> None:
    with running(model_folders.sparse_folder(), replace(SHORT, max_new_tokens=1500)) as server, client(server) as talk:
        for stream in (True, False):
            seen: list[Any] = []
            thread = threading.Thread(target=_leave, args=(talk, stream))
            thread.start()
            wait_until(lambda seen=seen: seen.extend(server.handler.running) or any(a.total_tokens for a in seen))
            thread.join()
            wait_until(lambda: httpx.get(server.url + "/health").json()["waiting"] == 0)
            wait_until(lambda: server.handler.turns.num_answers == 0)
            assert 0 < seen[-1].total_tokens < 1400
            seen.clear()


def _leave(talk: Any, stream: bool) -> None:
    if stream:
        answer = talk.chat.completions.create(model="tiny", messages=[user(QUESTION)], stream=True)
        next(piece for piece in answer if piece.choices[0].delta.content)
        answer.close()
        return
    with pytest.raises(openai.APITimeoutError):
        talk.with_options(timeout=0.5).chat.completions.create(model="tiny", messages=[user(QUESTION)])


def test_a_stream_that_nobody_begins_to_read_ends_too() -> None:
    body = json.dumps({"messages": [user(QUESTION)], "stream": True}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "asgi": {"spec_version": "2.4"},
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        raise OSError("gone")

    with running(model_folders.sparse_folder(), replace(SHORT, max_new_tokens=1500)) as server:
        app, server.handler.running = server.config.loaded_app, set()
        with pytest.raises(ClientDisconnect):
            asyncio.run(app(scope, receive, send))
        assert httpx.get(server.url + "/health").json()["waiting"] == 0
        wait_until(lambda: server.handler.turns.num_answers == 0)
        (made,) = server.handler.running
        assert made.total_tokens < 1400


def test_a_server_that_stops_ends_its_answers_and_calls_none_complete() -> None:
    long = replace(SHORT, max_new_tokens=1500)
    with running(model_folders.sparse_folder(), long) as server, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(ask, server, [user(QUESTION)])
        streamed = pool.submit(pieces_of, server, [user(QUESTION)])
        wait_until(lambda: sum(made.total_tokens > 3 for made in server.handler.running) == 2)
        server.should_exit = True
        assert isinstance(whole.exception(10), openai.InternalServerError)
        assert "the server is being stopped; this answer is not complete" in str(whole.exception())
        assert isinstance(streamed.exception(10), openai.APIError)
        assert "the server is being stopped; this answer is not complete" in str(streamed.exception())
        assert all(made.total_tokens < 1400 for made in server.handler.running)


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_a_long_answer_keeps_nobody_waiting_and_changes_no_other(folder: Any) -> None:
    with running(folder(), replace(SHORT, max_new_tokens=1500)) as server, ThreadPoolExecutor(3) as pool:
        seeded: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_tokens": 6}
        asked = [([user(QUESTION, data_url())], {"max_tokens": 6}), ([user(SECOND)], seeded)]
        alone = [ask(server, messages, **more).choices[0].message.content for messages, more in asked]
        long = pool.submit(pieces_of, server, [user("Tell me all.")], temperature=1.0)
        wait_until(lambda: any(made.total_tokens > 3 for made in server.handler.running))
        together = [pool.submit(ask, server, messages, **more) for messages, more in asked]
        assert [answer.result(30).choices[0].message.content for answer in together] == alone
        assert not long.done()
        server.should_exit = True


def test_pieces_hold_back_what_may_still_change() -> None:
    text, shown = " caf\u00e9 now. STOP it", ""
    for end in range(len(text) + 1):
        piece = settled(text[:end] + "\ufffd" * (end % 2), ["STOP"], last=False)
        assert piece.startswith(shown)
        shown = piece
    assert settled(text, ["STOP"], last=True) == shown == "caf\u00e9 now."
    assert settled("a\ufffd", [], last=True) == "a\ufffd"


def test_the_stock_server_knows_our_class() -> None:
    from transformers.cli.serving.model_manager import ModelManager

    model = load(model_folders.sparse_folder())
    assert ModelManager.get_model_modality(model, load_processor(model_folders.sparse_folder())).name == "MULTIMODAL"

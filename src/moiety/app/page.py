"""The page, made with gradio. It connects what a person does with :mod:`moiety.app.session` and ``views``.

gradio is imported where a page is made, so that this module can be imported without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from moiety.app.received import LARGEST_BYTES, NotGiven, UploadLimit, Uploads, lies_in, not_given
from moiety.app.refusals import refuse_in_one_line
from moiety.app.session import Session
from moiety.app.views import STYLE, nearest_layer, note_html, routing_html, step_of, waiting_html
from moiety.lens.draw.tint import most_varied_layer
from moiety.serve.hosts import HostCheck, Hosts
from moiety.serve.turns import MOST_AT_ONCE, Turns
from moiety.vlm.model import groups_of, moe_layers, settings_of

if TYPE_CHECKING:
    import gradio as gr

LONGEST_ANSWER = 1024
TINT = 80
"""Per cent of tint over the picture to begin with: the shapes of the picture stay visible, and the colours distinct."""
CSS = (
    STYLE
    + """
.gradio-container { max-width: 1320px !important; width: 100%; margin: 0 auto }
#title h2 { margin: 0 } #title p { margin: 2px 0 0; opacity: .75 }
#picture img { width: 100%; height: 100%; object-fit: contain }
#note { min-height: 22px } #note .error { color: #b3261e; font-weight: 600 } .dark #note .error { color: #ffb4ab }
#examples img { width: 52px; height: 52px; min-width: 0; object-fit: cover }
#examples .container { width: 52px; height: 52px; margin: 0 auto }
#examples td { text-align: left } #examples td, #examples th { padding: 3px 10px }
#routing { padding: 2px 6px }
#talk .wrapper { box-sizing: border-box; padding-top: 28px }
#talk .placeholder { padding: 0 12px; text-align: center; text-wrap: balance }
@media (max-width: 480px) { #question textarea { min-height: 62px } }
"""
)
"""Styles of the page. Messages scroll below the label of the conversation, not behind it. On a narrow window, gradio
shows a long first question in a box of one line, so the box gets two lines there."""


class Page:
    """The page of one model.

    Args:
        model: Sparse or dense.
        processor: Its processor.
        name: Name of the model on the page.
        examples: Picture files and questions; the page starts with the first one.
        max_new_tokens: Longest answer in tokens, until somebody moves the slider.
        folder: Where gradio keeps uploaded files; a picture elsewhere is never opened.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str,
        examples: Sequence[tuple[str, str]],
        max_new_tokens: int,
        folder: Path,
    ) -> None:
        import gradio as gr

        self.model, self.processor, self.name, self.folder = model, processor, name, folder
        self.examples, self.max_new_tokens = list(examples), max_new_tokens
        self.turns = Turns()
        self.layers = [layer.layer_index for layer in moe_layers(model)]
        self.keep: Any = gr.skip()  # leaves an output as it is

    def blocks(self) -> gr.Blocks:
        """The components of the page and their events."""
        import gradio as gr

        with gr.Blocks(title=f"{self.name} · moiety", analytics_enabled=False, fill_width=True) as blocks:
            gr.Markdown(f"## {self.name}\n{self._kind()}", elem_id="title")
            session = gr.State(None, time_to_live=3600)
            with gr.Row():
                with gr.Column(scale=5, min_width=340):
                    picture, talk, question, note, buttons, longest = self._left()
                with gr.Column(scale=6, min_width=340):
                    layer, tint, routing = self._right()
            ask, stop, clear = buttons
            shown = [session, talk, question, note, layer, tint, routing]
            gr.on(
                [ask.click, question.submit],
                self.ask,
                [session, picture, question, longest, layer, tint],
                shown,
                concurrency_limit=MOST_AT_ONCE,  # one model: answers take turns, one token each
                show_progress="hidden",
                api_visibility="private",
            )
            quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
            stop.click(self.stop, [session], [], **quick)
            gr.on([clear.click, talk.clear], self.clear, [session], [*shown, picture], **quick)
            for slider in (layer, tint):
                slider.input(self.redraw, [session, layer, tint], [routing], trigger_mode="always_last", **quick)
        for part in blocks.blocks.values():  # a request can name a file or an address for any input
            setattr(part, "async_move_resource_to_block_cache", self._kept)  # noqa: B010
        refuse_in_one_line(blocks)
        return blocks

    def _kind(self) -> str:
        settings, groups = settings_of(self.model), groups_of(self.model)
        if settings is None or groups is None:
            return "This model is dense: it answers, and there is no routing to show."
        return f"Scheme {settings.scheme} · experts: {groups.describe()} · sparse layers: {len(self.layers)}"

    def _left(self) -> tuple[Any, ...]:
        import gradio as gr

        file, words = self.examples[0] if self.examples else (None, "")
        picture = gr.Image(
            file, type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Picture", height=230,
            elem_id="picture", buttons=[],
        )  # fmt: skip
        # gradio would open the file first and fail with its own error; the session reads it and says what is wrong
        setattr(picture, "preprocess", lambda payload: None if payload is None else payload.path)  # noqa: B010
        talk = gr.Chatbot(
            label="Conversation", height=230, render_markdown=False, buttons=[], elem_id="talk", feedback_options=None,
            placeholder="Ask something about the picture. Another picture starts a new conversation.",
        )  # fmt: skip
        with gr.Row(equal_height=True):
            question = gr.Textbox(
                words, label="Question", show_label=False, placeholder="Your question", scale=5, elem_id="question",
                max_lines=3,
            )  # fmt: skip
            ask = gr.Button("Ask", variant="primary", scale=1, min_width=70, elem_id="ask")
        note = gr.HTML(note_html("", is_error=False), elem_id="note")
        with gr.Row():
            stop = gr.Button("Stop", size="sm", elem_id="stop")
            clear = gr.Button("Clear", size="sm", elem_id="clear")
        if self.examples:
            gr.Examples(
                [list(pair) for pair in self.examples], [picture, question], cache_examples=False, elem_id="examples"
            )
        longest = gr.Slider(
            1, max(LONGEST_ANSWER, self.max_new_tokens), self.max_new_tokens, step=1, label="Longest answer, tokens",
            elem_id="longest",
        )  # fmt: skip
        return picture, talk, question, note, (ask, stop, clear), longest

    async def _kept(self, file: str | Path | None) -> str | None:
        """Replaces gradio's own copying, which fetches addresses and copies any file that it may read."""
        if file is not None and not lies_in(file, self.folder):
            raise NotGiven(not_given(file))
        return None if file is None else str(file)

    def _right(self) -> tuple[Any, Any, Any]:
        import gradio as gr

        first, last = (self.layers[0], self.layers[-1]) if self.layers else (0, 1)
        with gr.Row():
            layer = gr.Slider(
                first, max(last, first + 1), first, step=step_of(self.layers), label="Sparse layer", elem_id="layer",
                visible=len(self.layers) > 1, min_width=160,
            )  # fmt: skip
            tint = gr.Slider(
                0, 100, TINT, step=5, label="Tint of the picture, %", elem_id="tint", visible=bool(self.layers),
                min_width=160,
            )  # fmt: skip
        return layer, tint, gr.HTML(waiting_html(groups_of(self.model)), elem_id="routing")

    def ask(
        self, session: Session | None, file: str | None, question: str, longest: float, layer: float, tint: float
    ) -> Iterator[tuple[Any, ...]]:
        """Show the answer piece by piece, and at the end which expert read what."""
        session = session or Session(self.model, self.processor, self.folder, self.turns)
        keep, first = self.keep, session.reading is None
        for said in session.ask(file, question, int(longest)):
            box = keep if said.is_error else ""
            yield session, said.history, box, note_html(said.note, is_error=said.is_error), keep, keep, keep
        if said.is_error or session.reading is None:
            return
        import gradio as gr

        seen = session.reading.observation
        chosen = most_varied_layer(seen) if first else nearest_layer(self.layers, layer)
        lies_over = gr.update(visible=seen.grid is not None)  # without a grid there is no picture below the tint
        yield session, keep, keep, keep, chosen, lies_over, routing_html(session.reading, chosen, tint / 100)

    def redraw(self, session: Session | None, layer: float, tint: float) -> Any:
        """Draw the routing of the same answer for another layer or with another tint."""
        if session is None or session.reading is None:
            return self.keep
        return routing_html(session.reading, nearest_layer(self.layers, layer), tint / 100)

    def stop(self, session: Session | None) -> None:
        """End the answer that is being made; the event of that answer shows it."""
        if session:
            session.stop()

    def clear(self, session: Session | None) -> tuple[Any, ...]:
        """Start again."""
        if session:
            session.clear()
        nothing, keep = note_html("", is_error=False), self.keep
        return session, [], "", nothing, keep, keep, waiting_html(groups_of(self.model)), None


def launch(page: Page, hosts: Hosts, *, host: str, port: int, share: bool) -> tuple[gr.Blocks, str, str | None]:
    """Start to serve a page and return at once.

    The page uses the fonts of the visitor's machine: fonts from elsewhere would tell that server who looks at the page.

    Args:
        page: What to serve.
        hosts: Host names that it answers to; with `share` the public one is added.
        host: Address to listen at.
        port: A free port.
        share: Whether gradio opens a tunnel.

    Returns:
        The blocks, which must be closed in the end, the address and, with `share`, the public address.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    plain = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    blocks, uploads = page.blocks(), Uploads(page.folder)
    _, address, public = blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=plain,
        css=CSS,
        max_file_size=LARGEST_BYTES,
        app_kwargs={"middleware": [Middleware(HostCheck, hosts=hosts), Middleware(UploadLimit, uploads=uploads)]},
        prevent_thread_lock=True,
        quiet=True,
        show_error=hosts.only_this_machine and not share,  # gradio's own errors name paths of this machine
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
    )
    if public is not None:
        hosts.add(urlsplit(public).netloc)
    return blocks, address, public

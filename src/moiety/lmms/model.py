"""The class that lmms-eval makes for ``--model moiety``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from moiety.devices import device_named
from moiety.lmms.asked import Asked, answers, read_messages, read_settings
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor

CHUNK = 16
"""Number of batches whose pictures are in memory at once. Within them, questions of similar length share a batch."""


class Moiety(lmms):
    """A model folder, sparse or dense, answering the chat tasks of lmms-eval as ``moiety evaluate`` would.

    Args:
        pretrained: Model folder or Hugging Face id.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None: a GPU if there is one.
        batch_size: Questions asked at once; answers do not depend on it.
        template: Name of a chat template; None: the processor's own.
        max_new_tokens: Longest answer where a task names no length.
        unknown: Any other argument; it is refused, because an ignored argument looks like one that worked.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        template: str | None = None,
        max_new_tokens: int = 512,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ValueError(
                f"--model_args has {', '.join(sorted(unknown))}; "
                "known: pretrained, device, batch_size, template, max_new_tokens"
            )
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"--batch_size must be a whole number from 1 on, got {batch_size!r}")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("the moiety model of lmms-eval runs in one process; start it without a launcher")
        self.batch_size, self.max_new_tokens = int(batch_size), int(max_new_tokens)
        self.model = load(pretrained, device=device_named(device))
        self.processor = load_processor(pretrained, template, marks=False)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer for each request, in order.

        Raises:
            ValueError: a task has a setting that this model would ignore, or shows something else than pictures.
        """
        said: dict[int, str] = {}
        groups: list[tuple[Asked, list[int]]] = []
        for number, request in enumerate(requests):
            asked = read_settings(request.args[2], self.max_new_tokens)
            same = next((numbers for known, numbers in groups if known == asked), None)
            if same is None:
                groups.append((asked, same := []))
            same.append(number)
        with tqdm(total=len(requests), desc="moiety: answers") as bar:
            for asked, numbers in groups:
                for start in range(0, len(numbers), CHUNK * self.batch_size):
                    chunk = numbers[start : start + CHUNK * self.batch_size]
                    said.update(zip(chunk, self._answers([requests[number] for number in chunk], asked), strict=True))
                    bar.update(len(chunk))
        return [said[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not built."""
        raise NotImplementedError(
            "the moiety model of lmms-eval answers tasks of output_type generate_until; loglikelihood is not built"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not built."""
        raise NotImplementedError(
            "the moiety model of lmms-eval answers tasks of output_type generate_until; several rounds are not built"
        )

    def _answers(self, requests: Sequence[Any], asked: Asked) -> list[str]:
        rows, pictures = [], dict[str, Image.Image]()
        for number, request in enumerate(requests):
            _, to_messages, _, doc_id, task, split = request.args
            row, shown = read_messages(to_messages(self.task_dict[task][split][doc_id]), f"{task}/{doc_id}/{number}")
            rows.append(row)
            pictures |= shown
        texts = answers(self.model, self.processor, rows, pictures, asked, self.batch_size)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
        return texts

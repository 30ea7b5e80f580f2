"""Rows of conversations for the scripts of this folder: their arguments, and encoded rows spread over a file."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor
from transformers.utils import logging

from moiety.vlm.data import Collator, Encoder
from moiety.vlm.images import Images
from moiety.vlm.rows import read_rows
from moiety.vlm.templates import load_processor


def parser_over_rows(description: str | None) -> argparse.ArgumentParser:
    """A parser with the model folder, the rows and the folder of their pictures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="dense model folder")
    parser.add_argument("rows", help="conversations in LLaVA's format")
    parser.add_argument("--images", required=True, help="folder of their pictures")
    return parser


def encoded(given: argparse.Namespace, number: int) -> tuple[Any, list[dict[str, Tensor]], Collator]:
    """The processor, `number` encoded rows that are spread over the file, and what joins them into a batch."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = load_processor(given.folder)
    rows, _ = read_rows([given.rows])
    encoder = Encoder(processor, Images([given.images]), max_length=2048)
    seen = [encoder.encode(row) for row in rows[:: max(1, len(rows) // number)][:number]]
    return processor, seen, Collator(encoder.pad_token_id)

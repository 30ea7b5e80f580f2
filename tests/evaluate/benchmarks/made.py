"""Small folders in the official form of the benchmarks of free answers, and answers that are right by every rule."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEOPLE = [{"answer": "red", "answer_confidence": "yes"}] * 10
STEPS = [{"operation": "select", "dependencies": [], "argument": "dress (1)"}]
VQA_QUESTIONS = {"questions": [{"question_id": n, "image_id": 7, "question": "Which?"} for n in (1, 2)]}
VISTA = {"image": "1.jpg", "unit": None, "precision": 1.0, "question": "What?"}


def hallusion(figure: str, filename: str | None) -> dict[str, Any]:
    place = {"category": "VS", "subcategory": "map", "set_id": "0", "figure_id": figure, "question_id": "0"}
    return {**place, "visual_input": figure, "question": "Is it?", "gt_answer": "1", "filename": filename}


def gqa(name: str, kind: str, answer: str, group: str | None) -> dict[str, Any]:
    types = {"structural": kind, "semantic": "attr", "detailed": "x"}
    common = {"semantic": STEPS, "types": types, "groups": {"global": group, "local": "l"}}
    return {name: {"question": "Which one?", "imageId": "n1", "answer": answer, **common}}


@dataclass(frozen=True)
class Made:
    """Files by name, and right answers by row id."""

    files: Mapping[str, Any]
    right: Mapping[str, str]

    def write(self, folder: Path) -> Path:
        for name, document in self.files.items():
            (folder / name).write_text(json.dumps(document), encoding="utf-8")
        return folder


DOCUMENT = {"questionId": 1, "question": "Who?", "image": "documents/a.png", "answers": ["Ann", "Ann B."]}
RED = {"1": "red", "2": "red"}
MADE: Mapping[str, Made] = {
    "gqa": Made(
        {"testdev_balanced_questions.json": gqa("1", "query", "red", "color") | gqa("2", "verify", "yes", None)},
        {"1": "red", "2": "yes"},
    ),
    "vqav2": Made(
        {
            "v2_OpenEnded_mscoco_val2014_questions.json": VQA_QUESTIONS,
            "v2_mscoco_val2014_annotations.json": {
                "annotations": [
                    {"question_id": n, "question_type": "which", "answer_type": "other", "answers": PEOPLE}
                    for n in (1, 2)
                ]
            },
        },
        RED,
    ),
    "vqav2_testdev": Made({"v2_OpenEnded_mscoco_test-dev2015_questions.json": VQA_QUESTIONS}, RED),
    "mmvet": Made(
        {"mm-vet.json": {"v1_0": {"imagename": "v1_0.png", "question": "?", "answer": "1", "capability": ["ocr"]}}},
        {"v1_0": "1"},
    ),
    "hallusionbench": Made(
        {"HallusionBench.json": [hallusion("0", None), hallusion("1", "./VS/map/0_1.png")]},
        {"VS/map/0/0/0": "yes", "VS/map/0/1/0": "yes"},
    ),
    "textvqa": Made(
        {
            "TextVQA_0.5.1_val.json": {
                "data": [{"question_id": 1, "image_id": "ab", "question": "Which?", "answers": ["red"] * 10}]
            }
        },
        {"1": "red"},
    ),
    "docvqa": Made({"val_v1.0.json": {"data": [DOCUMENT]}}, {"1": "Ann"}),
    "docvqa_test": Made({"test_v1.0.json": {"data": [DOCUMENT]}}, {"1": "Ann"}),
    "chartqa": Made(
        {
            "test_human.json": [{"imgname": "1.png", "query": "How many?", "label": "14"}],
            "test_augmented.json": [{"imgname": "2.png", "query": "Who?", "label": "Ann"}],
        },
        {"human/0": "14", "augmented/0": "Ann"},
    ),
    "mathvista": Made(
        {
            "testmini.json": {
                "1": {**VISTA, "choices": None, "answer": "1.2", "question_type": "free_form", "answer_type": "float"},
                "2": {
                    **VISTA,
                    "choices": ["none", "all"],
                    "answer": "all",
                    "question_type": "multi_choice",
                    "answer_type": "text",
                },
                "3": {
                    **VISTA,
                    "choices": None,
                    "answer": "[1, 2]",
                    "question_type": "free_form",
                    "answer_type": "list",
                },
                "4": {**VISTA, "choices": None, "answer": "7", "question_type": "free_form", "answer_type": "integer"},
            }
        },
        {"1": "1.2", "2": "all", "3": "[1, 2]", "4": "7"},
    ),
    "vizwiz": Made({"val.json": [{"image": "a.jpg", "question": "What?", "answers": PEOPLE}]}, {"a.jpg": "red"}),
    "vizwiz_test": Made({"test.json": [{"image": "a.jpg", "question": "What?"}]}, {"a.jpg": "red"}),
    "ocrbench": Made(
        {
            "OCRBench.json": [
                {"dataset_name": name, "type": "text", "question": "?", "answers": "Exit", "image_path": "a.jpg"}
                for name in ("HME100k", "SVT")
            ]
        },
        {"0": "Exit", "1": "Exit"},
    ),
    "nlvr2": Made(
        {"dev.json": {"identifier": "dev-1-0-0", "sentence": "It is.", "label": "True"}}, {"dev-1-0-0": "True"}
    ),
}
"""Benchmark name -> its folder."""

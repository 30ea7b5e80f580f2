"""lmms-eval itself, where it is installed, scores a task from a parquet file with our model."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from moiety.evaluate.run import answer_rows
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from tests import model_folders

ROOT = Path(__file__).parents[2]
QUESTIONS = ("Is there a red circle?", "Is there a blue square?", "Is there a green square?")
needs_lmms_eval = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: pip install 'moiety[lmms]' and pip install --no-deps lmms-eval==0.7.3",
)

TASK = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {folder}/pope.parquet}}}}
task: pope_here
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}}
process_results: !function utils.score
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
metadata: {{version: 0.0}}
"""
UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


def test_the_entry_point_names_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["moiety"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert (ROOT / "src" / "moiety" / "lmms" / "model.py").read_text().count("class Moiety(lmms):") == 1


def write_task(folder: Path, answers: list[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    model_folders.picture().save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "picture.png"}
    rows = [{"question": one, "answer": two, "image": image} for one, two in zip(QUESTIONS, answers, strict=True)]
    kinds = {name: {"dtype": "string", "_type": "Value"} for name in ("question", "answer")}
    features = {"info": {"features": {**kinds, "image": {"_type": "Image"}}}}
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, folder / "pope.parquet")
    (folder / "pope_here.yaml").write_text(TASK.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)


@needs_lmms_eval
def test_lmms_eval_scores_what_evaluate_says(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    folder = model_folders.sparse_folder()
    rows = [Row(text, (Turn("user", f"<image>\n{text}"),), ("picture",)) for text in QUESTIONS]
    pictures = {"picture": model_folders.picture()}
    said = answer_rows(load(folder), load_processor(folder), rows, pictures, batch_size=3, max_new_tokens=4)
    write_task(tmp_path, [said[QUESTIONS[0]], said[QUESTIONS[1]], "never said"])
    words = ["--tasks", "pope_here", "--include_path", str(tmp_path), "--batch_size", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--model", "moiety", "--model_args", f"pretrained={folder}", *words,
         "--output_path", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (tmp_path / "out").rglob("*_results.json")
    assert json.loads(result.read_text())["results"]["pope_here"]["right,none"] == pytest.approx(2 / 3)


@needs_lmms_eval
def test_lmms_eval_hears_what_is_not_built() -> None:
    from moiety.lmms.model import Moiety

    folder = str(model_folders.sparse_folder())
    with pytest.raises(ValueError, match="--model_args has attn; known: pretrained, device, batch_size, template"):
        Moiety(folder, device="cpu", attn="eager")
    with pytest.raises(ValueError, match="--batch_size must be a whole number from 1 on, got 'auto'"):
        Moiety(folder, device="cpu", batch_size="auto")
    model = Moiety(folder, device="cpu")
    for verb in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="answers tasks of output_type generate_until"):
            verb([])


@needs_lmms_eval
def test_lmms_eval_with_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from moiety.lmms.model import Moiety

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="runs in one process; start it without a launcher"):
        Moiety(str(model_folders.sparse_folder()))

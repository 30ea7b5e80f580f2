"""Logs on disk follow the run, also when it is resumed."""

import csv
import json
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from moiety.train.log_files import CURVE, LINES, LOADS, TABLE, LogFiles, draw_loads, read_log


def write(folder: Path, text: str) -> None:
    (folder / LINES).write_text(text)


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": 1.0, "cross_entropy": 1.0, "alarms": []}) + "\n" for step in steps)


def test_a_resumed_run_drops_what_lies_behind_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, lines(2, 4, 6) + '{"step": 8, "lo')
    state = TrainerState(global_step=4)
    files, args, control = (
        LogFiles(tmp_path),
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        TrainerControl(),
    )
    files.on_train_begin(args, state, control)
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4]
    state.global_step = 5
    files.on_log(args, state, control, {"loss": 0.5, "cross_entropy": 0.5, "load_balancing_loss/vision": 2.0})
    files.on_log(args, state, control, {"train_loss": 0.5})
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 5]
    files.on_train_end(args, state, control)
    with open(tmp_path / TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["2", "4", "5"]
    assert table[2]["load_balancing_loss/vision"] == "2.0"
    assert "alarms" not in table[0]
    assert (tmp_path / CURVE).read_bytes().startswith(b"\x89PNG")


def test_the_first_line_after_a_checkpoint_between_two_lines_says_what_it_averages(tmp_path: Path) -> None:
    args, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    for checkpoint, marked in ((5, 6), (4, None), (0, None)):
        write(tmp_path, lines(2, 4, 6))
        files, state = LogFiles(tmp_path), TrainerState(global_step=checkpoint)
        files.on_train_begin(args, state, control)
        for step in (6, 8):
            state.global_step = step
            files.on_log(args, state, control, {"loss": 0.5})
        first, second = read_log(tmp_path)[-2:]
        assert first.get("averages_from") == marked
        assert "averages_from" not in second


def test_a_run_that_began_under_former_names_goes_on_in_the_same_columns(tmp_path: Path) -> None:
    old = {"step": 2, "loss": 1.0, "cross_entropy": 1.0, "order/pair_loss": 2.5, "order/inside_share": 0.25}
    write(tmp_path, json.dumps(old) + "\n")
    files, args = LogFiles(tmp_path), TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(global_step=2), TrainerControl()
    files.on_train_begin(args, state, control)
    state.global_step = 4
    files.on_log(args, state, control, {"loss": 0.5, "cross_entropy": 0.5, "cone/pair_loss": 1.5})
    files.on_train_end(args, state, control)
    with open(tmp_path / TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["cone/pair_loss"] for row in table] == ["2.5", "1.5"]
    assert list(table[0]) == ["step", "loss", "cross_entropy", "cone/pair_loss", "cone/inside_share"]


def test_no_log_yet(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []


def test_loads_are_drawn_where_there_are_experts(tmp_path: Path) -> None:
    write(tmp_path, lines(1, 2))
    draw_loads(tmp_path)
    assert not (tmp_path / LOADS).exists()
    vision = {"load/vision/0_vision": 0.6, "load/vision/1_inter": 0.4, "layer_loads/vision": [[1.2, 0.8], [2.0, 0.0]]}
    text = {"load/text/1_inter": 1.0, "layer_loads/text": [[1.0], [1.0]]}
    found = [{"step": 1, **vision}, {"step": 5, **vision, **text}, {"step": 6}, {"step": 9, **text}]
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in found))
    draw_loads(tmp_path)  # a modality without tokens at a step is left out there
    assert (tmp_path / LOADS).read_bytes().startswith(b"\x89PNG")

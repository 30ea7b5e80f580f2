"""MMBench: fast rule and circles of the public scorer, the table with its pictures, the sheet for the server."""

import base64
import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.files.spreadsheet import MAX_CHARACTERS, write_xlsx
from moiety.evaluate.benchmarks.sets.mmbench import MMBENCH, MMBENCH_TEST, fast_letter
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores

COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category")


def test_equals_the_public_scorer(shared: Path) -> None:
    lines = golden_rows(shared, "mmbench")
    rows = []
    for line in lines:
        choices = [line[letter] for letter in "ABCD" if line[letter] is not None]
        extra = {key: line[key] for key in ("index", "category", "l2-category", "answer")}
        rows.append(asked(str(line["index"]), "?", choices=choices, extra=extra))
        assert fast_letter(line["prediction"], choices) == line["inferred"]
    score = checked_score(MMBENCH, rows, {str(line["index"]): line["prediction"] for line in lines}, "lmms_eval")
    expected = golden_scores(shared, "mmbench")["lmms_static"]
    assert score.headline[1] == pytest.approx(100 * expected["overall"], abs=1e-9)
    for name, share in expected["category"].items():
        assert score.numbers[f"- {name}"] == pytest.approx(100 * share, abs=1e-9)
    for name, share in expected["l2_category"].items():
        assert score.numbers[name] == pytest.approx(100 * share, abs=1e-9)


def png(shade: int) -> str:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(folder: Path, lines: list[tuple[str, ...]], name: str = "mmbench_dev_20230712.tsv") -> Path:
    table = "\n".join("\t".join(cells) for cells in (COLUMNS, *lines))
    (folder / name).write_text(table, encoding="utf-8")
    return folder


LINES = [
    ("3", "Which?", "nan", "red", "None", "", "", "B", "colour", png(9), "perception"),
    ("1000003", "Which?", "nan", "None", "red", "", "", "A", "colour", "3", "perception"),
    ("4", '"Two\nlines\u2028?"', "Look.", "a", "b", "c", "d", "D", "place", png(7), "perception"),
]


def test_reads_the_table(tmp_path: Path) -> None:
    rows = MMBENCH.read(write(tmp_path, LINES))
    assert [row.id for row in rows] == ["3", "1000003", "4"]
    assert rows[0].choices == ("red", "None")  # a real option, unlike an empty cell
    assert rows[2].turns[0].text.startswith("<image>\nLook.\nTwo\nlines\u2028?\nA. a\nB. b\nC. c\nD. d\nAnswer with")
    assert rows[1].images == rows[0].images == ("3",)
    pictures = MMBENCH.pictures(tmp_path)
    assert [int(np.asarray(pictures[row.images[0]])[0, 0, 0]) for row in rows] == [9, 9, 7]
    assert ["3" in pictures, "1000003" in pictures] == [True, False]
    perfect = {"3": "B", "1000003": "A", "4": "D"}
    for rule in MMBENCH.rules:
        assert checked_score(MMBENCH, rows, perfect, rule).headline[1] == 100
        assert checked_score(MMBENCH, rows, dict.fromkeys(perfect, ""), rule).headline[1] == 0
        half = checked_score(MMBENCH, rows, {**perfect, "1000003": "B"}, rule)
        assert (half.headline[1], half.numbers["single pass"]) == (50, 100)
    assert MMBENCH.first(rows, 1) == rows[:2]


def test_bad_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tsv:2: index must be a whole number, got 'x'"):
        MMBENCH.read(write(tmp_path, [("x", *LINES[0][1:])]))
    with pytest.raises(ValueError, match=r"tsv:2: answer 'C' does not fit the options A, B; fetch the table again"):
        MMBENCH.read(write(tmp_path, [(*LINES[0][:7], "C", *LINES[0][8:])]))
    pictures = MMBENCH.pictures(write(tmp_path, [(*LINES[0][:9], "%" * 80, "x")]))
    with pytest.raises(FileNotFoundError, match=r"row 5 of .* has no picture; fetch the table again"):
        pictures["5"]
    with pytest.raises(ValueError, match=r"picture of row 3 of .* is not base64"):
        pictures["3"]


# -- the sheet ---------------------------------------------------------------------------------------------------------
def cells_of(path: Path) -> list[list[str]]:
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            ElementTree.fromstring(file.read(name))
        sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    return [["".join(cell.itertext()) for cell in row] for row in sheet.iter(f"{space}row")]


def test_the_test_split_is_written_not_scored(tmp_path: Path) -> None:
    lines = [(*line[:7], "", *line[8:]) for line in LINES]
    rows: list[Row] = MMBENCH_TEST.read(write(tmp_path, lines, "MMBench_TEST_EN.tsv"))
    answers = {"3": "=1+1", "1000003": "<b>\0&", "4": "x" * 40_000}
    with pytest.raises(ValueError, match=r"3 questions have no answer in the table, first '3'; write the answer file"):
        MMBENCH.score(rows, answers)
    with pytest.raises(ValueError, match=r"mmbench_test is graded elsewhere; write its answers file"):
        MMBENCH_TEST.score(rows, answers)
    MMBENCH_TEST.write_answers(rows, answers, tmp_path / "out" / "sheet.xlsx")
    cells = cells_of(tmp_path / "out" / "sheet.xlsx")
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction"]
    assert cells[1] == ["3", "Which?", "red", "None", "", "", "=1+1"]
    assert cells[2][-1] == "<b>&"
    assert cells[3][-1] == "x" * MAX_CHARACTERS


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_xlsx(tmp_path / name, ["n"], [[1], ["\ud800 lone half"]])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

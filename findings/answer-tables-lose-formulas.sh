#!/usr/bin/env bash
# pandas 3.0.0 with openpyxl 3.1.5 (Python 3.11): a table of model answers written with DataFrame.to_excel and read back
# with read_excel, the way evaluation tools keep predictions, loses every answer that begins with "=" ("=7", "= x + 1"):
# the cell is stored as a formula without a value and comes back as NaN, so that the answer counts as not given. Nothing
# is raised or warned. openpyxl with data_only=False still gives the text.
# Seen: read_excel -> [nan, '7 apples', nan]; openpyxl -> ['=7', '7 apples', '= x + 1'].
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pandas==3.0.0" "openpyxl==3.1.5"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import openpyxl
import pandas

written = ["=7", "7 apples", "= x + 1"]
pandas.DataFrame({"index": [0, 1, 2], "prediction": written}).to_excel("answers.xlsx", index=False)
read = pandas.read_excel("answers.xlsx")["prediction"].tolist()
cells = [row[1] for row in openpyxl.load_workbook("answers.xlsx").worksheets[0].iter_rows(min_row=2, values_only=True)]
print("read_excel ->", read, "; openpyxl ->", cells)
as_stated = [pandas.isna(value) for value in read] == [True, False, True] and cells == written
sys.exit(0 if as_stated else 1)
PYTHON

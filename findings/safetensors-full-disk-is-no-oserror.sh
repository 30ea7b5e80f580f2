#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6 (Python 3.11): a disk that is full is no OSError.
#
# Code that saves checkpoints guards with `except OSError`, which is what Python's own files and NumPy raise when the
# system refuses a write. save_file raises safetensors.SafetensorError instead, a plain Exception without errno or file
# name, so the guard does not see it; what the system said stands in its text alone. Whoever wants to tell "free some
# space" from "this file is damaged" has to read that text: a damaged file is a SafetensorError, too.
# In moiety: tests/test_saving.py, test_one_file_on_a_full_disk.
# Here a limit on the size of files stands for the full disk: the system refuses the write in the same place.
#
# Output seen:
#   a file of Python: OSError, errno 27
#   numpy.save: OSError, errno None
#   save_file: SafetensorError, OSError: False, errno: None
#   safe_open of a cut file: SafetensorError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "safetensors==0.8.0" "numpy==2.4.6"
cat > "$folder/full.py" <<'PYTHON'
import pathlib
import resource
import signal
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

folder = pathlib.Path(sys.argv[1])
weights = {"a": np.zeros(40_000, dtype=np.float32)}
save_file(weights, folder / "cut.safetensors")
(folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:1000])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def raised(write):
    try:
        write()
    except Exception as error:
        return error
    sys.exit("nothing was refused")


plain = raised(lambda: (folder / "plain").write_bytes(bytes(160_000)))
print(f"a file of Python: {type(plain).__name__}, errno {plain.errno}")
numpy = raised(lambda: np.save(folder / "a.npy", weights["a"]))
print(f"numpy.save: {type(numpy).__name__}, errno {numpy.errno}")
saved = raised(lambda: save_file(weights, folder / "a.safetensors"))
is_os_error, errno = isinstance(saved, OSError), getattr(saved, "errno", None)
print(f"save_file: {type(saved).__name__}, OSError: {is_os_error}, errno: {errno}")
cut = raised(lambda: safe_open(folder / "cut.safetensors", "np"))
print(f"safe_open of a cut file: {type(cut).__name__}")
assert isinstance(plain, OSError), plain
sys.exit(0 if type(saved) is type(cut) and not is_os_error and errno is None else 1)
PYTHON
"$folder/venv/bin/python" "$folder/full.py" "$folder"

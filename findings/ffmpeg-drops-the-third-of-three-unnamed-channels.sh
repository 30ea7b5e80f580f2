#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg's swresample), soundfile 0.13.1, Python 3.11.
#
# The same three channels, written as FLAC and as plain wav by the same library. FLAC's third channel is the centre, and the
# mono mix holds it in full. The wav names no places (soundfile writes no mask), PyAV shows "3 channels", and swresample mixes
# them as 2.1: the third channel counts as LFE and is left out. A voice there is gone, without a word. The centre of six
# unnamed channels is kept: there both orders agree.
#
# Output seen (loudness of the mono mix beside that of the voice, which is in the third channel):
#   flac 3.0: 1.000   wav 3 channels: 0.000   wav 6 channels: 1.000
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6 soundfile==0.13.1
cat > "$place/try.py" <<'PY'
import sys
from pathlib import Path

import av
import numpy as np
import soundfile

voice = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)


def mono(path: Path, channels: int) -> tuple[str, float]:
    """The layout that PyAV shows, and the loudness of its mono mix."""
    wave = np.zeros((len(voice), channels))
    wave[:, 2] = voice
    soundfile.write(path, wave, 16_000, subtype="PCM_16")
    mixer = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(str(path)) as container:
        name = container.streams.audio[0].layout.name
        parts = [part.to_ndarray() for frame in container.decode(audio=0) for part in mixer.resample(frame)]
    return name, float(np.sqrt(np.mean(np.concatenate(parts, 1) ** 2)) / np.sqrt(np.mean(voice**2)))


folder = Path(sys.argv[1])
found = [(kind, *mono(folder / f"{kind}{channels}.{kind}", channels)) for kind, channels in (("flac", 3), ("wav", 3), ("wav", 6))]
print("   ".join(f"{kind} {name}: {value:.3f}" for kind, name, value in found))
assert [name for _, name, _ in found] == ["3.0", "3 channels", "6 channels"], found
assert np.allclose([value for *_, value in found], [1, 0, 1], atol=0.01), found
PY
"$place/venv/bin/python" "$place/try.py" "$place"

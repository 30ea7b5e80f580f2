#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg's swresample), Python 3.11.
#
# Stereo made mono by the same resampler, from the same file, is 3 dB louder as float than as 16-bit integers. FFmpeg scales
# the mixing matrix so that integers cannot overflow, (L + R) / 2, and leaves it unscaled for floats, 0.7071 (L + R). So
# features of speech, and thresholds on loudness, depend on the sample format that was asked for, and sound that one reader
# averages over its channels is 3 dB quieter than the same sound from PyAV. Six channels: the centre has 1.0 as float and
# 0.29 as integers.
#
# Output seen:
#   stereo s16: 1.000   stereo flt: 1.414   5.1 centre s16: 0.293   5.1 centre flt: 1.000
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cat > "$place/try.py" <<'PY'
import av
import numpy as np

tone = 0.2 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)


def loudness(layout: str, columns: list[int], kind: str) -> float:
    """Root mean square of the mono mix beside that of the tone."""
    wave = np.zeros((len(tone), av.AudioLayout(layout).nb_channels))
    wave[:, columns] = tone[:, None]
    frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16).reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = 16_000
    mixed = av.AudioResampler(format=kind, layout="mono", rate=16_000).resample(frame)[0].to_ndarray()[0]
    mixed = mixed / 32767 if kind == "s16" else mixed
    return float(np.sqrt(np.mean(mixed**2)) / np.sqrt(np.mean(tone**2)))


found = {
    "stereo s16": loudness("stereo", [0, 1], "s16"),
    "stereo flt": loudness("stereo", [0, 1], "flt"),
    "5.1 centre s16": loudness("5.1", [2], "s16"),
    "5.1 centre flt": loudness("5.1", [2], "flt"),
}
print("   ".join(f"{name}: {value:.3f}" for name, value in found.items()))
expected = [1.0, 2**0.5, 1 / (1 + 2 * 0.5**0.5 + 2 * 0.5), 1.0]
assert np.allclose(list(found.values()), expected, atol=0.005), (found, expected)
PY
"$place/venv/bin/python" "$place/try.py"

"""Damaged, hostile and senseless input: each gets an error or a reported problem that names key and reason, no other
exception, and no file that is half there."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from moiety.intent import IntentClassifier, IntentSample, SampleError, read_clips
from moiety.intent.clips.feature_cache import read_features
from moiety.intent.data.pickles import FeatureFileError, read_feature_pickle
from moiety.intent.data.rows import ClipRow, RowsError
from tests.intent.clips.clip_files import RATE, tone, write_clip, write_wav
from tests.intent.data.test_rows import BAD as BAD_LINES

SMALL: dict[str, Any] = {"hidden": 8, "num_heads": 1, "num_anchors": 2, "max_epochs": 1, "triplet_weight": 0.0}


def outcome(folder: Path, row: ClipRow, reason: str | None) -> None:
    """Read a row beside a good one. With a reason the row is reported with it and nothing of it is kept; without, it
    may also be read, and what is kept is whole."""
    reading = read_clips([row, ClipRow("good", text="hi")], cache=folder / "cache", on_error="skip")
    if reason is not None:
        assert [key for key, _ in reading.problems] == [row.key]
        told = reading.problems[0][1]
        assert reason in told, told
        assert (row.audio or row.clip).name in told  # type: ignore[union-attr]
        assert not list(folder.glob("cache/**/*.safetensors"))
    assert len(reading.samples) + len(reading.problems) == 2
    assert reading.samples[-1].key == "good"
    for path in folder.glob("cache/**/*"):
        if path.is_file() and path.name != "extractor.json":
            kept = read_features(path)
            assert kept is not None, path
            assert np.isfinite(kept[0]).all()
    for sample in reading.samples[:-1]:
        for name in ("video", "audio"):
            sample.frames(name)


# -- clips -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Whole files: an mp4 with its index behind, one with it in front, one in parts; wav and flac."""
    folder = tmp_path_factory.mktemp("media")
    flags = {"behind": "", "front": "+faststart", "parts": "frag_keyframe+empty_moov"}
    found = {
        name: write_clip(folder / f"{name}.mp4", seconds=0.3, options={"movflags": flag} if flag else None).read_bytes()
        for name, flag in flags.items()
    }
    found["wav"] = write_wav(folder / "a.wav", tone(0.1)).read_bytes()
    found["flac"] = write_wav(folder / "a.flac", np.random.default_rng(0).normal(size=4000) * 0.1).read_bytes()
    return found


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.01, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.82, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("kind", ["behind", "front", "parts"])
def test_clips_cut_short(tmp_path: Path, media: dict[str, bytes], kind: str, share: float) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(media[kind][: max(1, int(len(media[kind]) * share))])
    outcome(tmp_path, ClipRow("broken", path), "it ")


@pytest.mark.parametrize("seed", range(36))
def test_clips_with_flipped_bits(tmp_path: Path, media: dict[str, bytes], seed: int) -> None:
    """In the index or in the data, one bit or several bytes; some damage cannot be seen, then the clip is read."""
    data = bytearray(media["front" if seed % 2 else "behind"])
    index, draw = data.find(b"moov"), np.random.default_rng(seed)
    span = (index, len(data)) if data.find(b"mdat") < index else (32, data.find(b"mdat"))
    low, high = span if seed % 3 else (0, len(data))
    for place in draw.integers(low, high, size=1 + seed % 8):
        data[place] ^= 255 if seed % 5 else 1 << int(draw.integers(8))
    path = tmp_path / "broken.mp4"
    path.write_bytes(data)
    outcome(tmp_path, ClipRow("broken", path), None)


def folder_named(path: Path) -> None:
    path.mkdir()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def picture_of_cat(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0) + bytes(40))


def absurd_box(path: Path) -> None:
    path.write_bytes(struct.pack(">I4s", 24, b"ftyp") + b"isom" + bytes(12) + struct.pack(">I4sQ", 1, b"mdat", 2**63))


NO_MEDIA: list[tuple[str, Callable[[Path], Any], str]] = [
    ("missing", lambda path: None, "there is no such file in"),
    ("folder", folder_named, "it is a folder, expected a media file"),
    ("empty", lambda path: path.touch(), "it is empty (0 bytes)"),
    ("pipe", os.mkfifo, "it is no regular file"),
    ("loop", link_to_itself, "there is no such file in"),
    ("dangling link", lambda path: path.symlink_to("nowhere"), "there is no such file in"),
    ("text", lambda path: path.write_text("Dear Sir or Madam"), "it cannot be decoded"),
    ("html", lambda path: path.write_text("<html><body>404 Not Found</body></html>" * 9), "it cannot be decoded"),
    ("git lfs", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"), "be decoded"),
    ("zeros", lambda path: path.write_bytes(bytes(5000)), "it cannot be decoded"),
    ("noise", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "it cannot be decoded"),
    ("one byte", lambda path: path.write_bytes(b"\0"), "it cannot be decoded"),
    ("png", picture_of_cat, "it cannot be decoded"),
    ("pickle", lambda path: path.write_bytes(pickle.dumps({"a": 1})), "it cannot be decoded"),
    ("playlist", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n"), "it cannot be decoded"),
    ("concat", lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"), "it cannot be decoded"),
    ("sdp", lambda path: path.write_text("v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"), "it cannot be decoded"),
    ("head alone", lambda path: path.write_bytes(struct.pack(">I4s", 8, b"ftyp")), "it cannot be decoded"),
    ("absurd box", absurd_box, "it is cut short: 40 bytes of at least 9223372036854775832"),
]


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in NO_MEDIA], ids=[case[0] for case in NO_MEDIA])
def test_what_is_no_clip(tmp_path: Path, make: Callable[[Path], Any], reason: str) -> None:
    make(tmp_path / "broken.mp4")
    outcome(tmp_path, ClipRow("broken", tmp_path / "broken.mp4"), reason)


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (9.0, None, "start_s 9 lies beyond its end at 0."),
        (1e300, None, "start_s 1e+300 lies beyond its end"),
        (0.0, 1e9, "end_s 1e+09 lies beyond its end at 0."),
        (0.0, 2.5, "end_s 2.5 lies beyond its end at 0."),
        (7.0, 8.0, "start_s 7 lies beyond its end at 0."),
        (0.0, 1e300, "end_s 1e+300 lies beyond its end"),
    ],
)
def test_absurd_cuts(tmp_path: Path, clip: Path, start: float, end: float | None, reason: str) -> None:
    outcome(tmp_path, ClipRow("broken", clip, start_s=start, end_s=end), reason)


# -- sound -------------------------------------------------------------------------------------------------------------
def wav(kind: str = "PCM_16", rate: int = RATE, **spots: float) -> Callable[[Path], Any]:
    samples = tone(0.1).astype(np.float64)
    for place, value in spots.items():
        samples[int(place[1:])] = value
    return lambda path: soundfile.write(path, samples, rate, subtype=kind)


WAVS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("no samples", lambda path: soundfile.write(path, np.zeros(0), RATE), "it holds no samples"),
    ("nan", wav("FLOAT", s7=np.nan), "1 of 1600 samples are not finite, first 7"),
    ("inf", wav("DOUBLE", s0=np.inf, s9=-np.inf), "2 of 1600 samples are not finite, first 0"),
    ("huge", wav("FLOAT", s5=1e30), "its loudest sample is 1e+30, expected about 1"),
    ("beyond float32", wav("DOUBLE", s5=1e300), "samples are not finite, first 5"),
    ("1 Hz", wav(rate=1), "a sample rate of 1 Hz cannot be right"),
    ("999 Hz", wav(rate=999), "a sample rate of 999 Hz cannot be right"),
    ("1 MHz", wav(rate=1_000_000), "a sample rate of 1000000 Hz cannot be right"),
    ("2 GHz", wav(rate=2**31 - 1), "a sample rate of 2147483647 Hz cannot be right"),
    ("head alone", lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVE"), "it "),
    ("text", lambda path: path.write_text("RIFFraff said the cat to the WAVE"), "it "),
]


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in WAVS], ids=[case[0] for case in WAVS])
def test_what_is_no_sound(tmp_path: Path, make: Callable[[Path], Any], reason: str) -> None:
    make(tmp_path / "broken.wav")
    outcome(tmp_path, ClipRow("broken", audio=tmp_path / "broken.wav"), reason)


@pytest.mark.parametrize("keep", [1, 8, 11, 12, 20, 36, 43, 44, 45, 1000, 3230])
def test_wav_cut_short(tmp_path: Path, media: dict[str, bytes], keep: int) -> None:
    (tmp_path / "broken.wav").write_bytes(media["wav"][:keep])
    outcome(tmp_path, ClipRow("broken", audio=tmp_path / "broken.wav"), "it ")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.6, 0.9])
def test_flac_cut_short(tmp_path: Path, media: dict[str, bytes], share: float) -> None:
    (tmp_path / "broken.flac").write_bytes(media["flac"][: int(len(media["flac"]) * share) + 1])
    outcome(tmp_path, ClipRow("broken", audio=tmp_path / "broken.flac"), "it ")


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("seed", range(8))
def test_sound_with_flipped_bytes(tmp_path: Path, media: dict[str, bytes], kind: str, seed: int) -> None:
    data, draw = bytearray(media[kind]), np.random.default_rng(seed)
    for place in draw.integers(0, 44 if seed % 2 else len(data), size=1 + seed % 3):
        data[place] ^= int(draw.integers(1, 256))
    (tmp_path / f"broken.{kind}").write_bytes(data)
    outcome(tmp_path, ClipRow("broken", audio=tmp_path / f"broken.{kind}"), None)


# -- rows --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("row", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_a_bad_line_stops_before_anything_is_read(tmp_path: Path, clip: Path, row: Any, message: str) -> None:
    good = json.dumps({"key": "good", "clip": str(clip)})
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{row if isinstance(row, str) else json.dumps(row)}\n")
    with pytest.raises(RowsError, match=rf"line 2: {message}"):
        read_clips(tmp_path / "rows.jsonl", cache=tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


# -- frames and labels -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fitted() -> IntentClassifier:
    draw = np.random.default_rng(0)
    samples = [
        IntentSample(f"s{n}", None, *(draw.normal(size=(3, 4)).astype(np.float32) for _ in range(3))) for n in range(8)
    ]
    return IntentClassifier(**SMALL).fit(samples, ["go", "stay"] * 4)


FRAMES: list[tuple[str, Any, str]] = [
    ("nan", np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]]), "is not finite in 1 of 2 frames, first 1"),
    ("inf", np.full((3, 4), -np.inf, np.float16), "is not finite in 3 of 3 frames, first 0"),
    ("too large", np.full((2, 4), 1e300), "is not finite in 2 of 2 frames, first 0"),
    ("object", np.array([[None] * 4], dtype=object), "holds object, expected numbers"),
    ("words", [["a", "b", "c", "d"]], "holds <U1, expected numbers"),
    ("dates", np.zeros((2, 4), "datetime64[s]"), "holds datetime64.*, expected numbers"),
    ("spans", np.zeros((2, 4), "timedelta64[s]"), "holds timedelta64.*, expected numbers"),
    ("complex", np.ones((2, 4)) * 1j, "holds complex128, expected numbers"),
    ("bytes", np.frombuffer(b"abcdefgh", "S1").reshape(2, 4), r"holds \|S1, expected numbers"),
    ("one number", 3.0, r"has shape \(\), expected \(frames, dim\)"),
    ("1-D", np.zeros(4), r"has shape \(4,\), expected \(frames, dim\)"),
    ("3-D", np.zeros((2, 3, 4)), r"has shape \(2, 3, 4\), expected \(frames, dim\)"),
    ("ragged", [[1.0, 2.0], [3.0]], "is no array"),
    ("a mapping", {"frames": 3}, "holds object, expected numbers"),
    ("narrow", np.zeros((2, 3)), "frames are 3 wide, the model takes 4"),
    ("wide", np.zeros((2, 5)), "frames are 5 wide, the model takes 4"),
    ("no columns", np.zeros((2, 0)), "frames are 0 wide, the model takes 4"),
]


@pytest.mark.parametrize("modality", ["text_features", "video", "audio"])
@pytest.mark.parametrize(("value", "message"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES])
def test_frames_that_are_none(fitted: IntentClassifier, modality: str, value: Any, message: str) -> None:
    good = {"key": "fine", "video": np.zeros((2, 4))}
    name = modality.removesuffix("_features")
    with pytest.raises(SampleError, match=rf"^broken: {name} {message}"):
        fitted.predict([good, {"key": "broken", modality: value}])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["go", "fly"], "y holds labels that fit never saw: fly; leave these rows out, or fit with them"),
        (["go"], "2 samples, but 1 labels; give one label for each sample"),
        (["go", None], "labels are strings, or integers in all rows, got NoneType None"),
        ([1, "go"], "labels are strings, or integers in all rows, got int 1; write all of them as strings"),
        ([True, False], "labels are strings, or integers in all rows, got bool True"),
        ([1, 2], "y holds labels that fit never saw: 1, 2; leave these rows out"),
        (["go", float("nan")], "labels are strings, or integers in all rows, got float nan"),
        (None, "2 samples, but 0 labels"),
    ],
)
def test_labels_that_are_none(fitted: IntentClassifier, labels: Any, message: str) -> None:
    samples = [{"video": np.zeros((2, 4))}] * 2
    for ask in (fitted.score, fitted.evaluate):
        with pytest.raises(ValueError, match=message):
            ask(samples, labels)


@pytest.mark.parametrize("key", ["format", "parameters", "classes", "dims", "oos_rule", "threshold", "best_epoch"])
def test_a_saved_classifier_without_a_part_of_its_config(fitted: IntentClassifier, tmp_path: Path, key: str) -> None:
    folder = fitted.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model is damaged .KeyError: .*; write it again with save"):
        IntentClassifier.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "label_descriptions.json", "metrics.json"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_saved_classifier_cut_short(fitted: IntentClassifier, tmp_path: Path, name: str, share: float) -> None:
    folder = fitted.save(tmp_path / "model")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="model is damaged"):
        IntentClassifier.load(folder)


# -- pickles -----------------------------------------------------------------------------------------------------------
def call(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls a function with one text."""
    return (
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(argument)) + argument + b"\x85R."
    )


HOSTILE = [
    ("posix", "system"), ("os", "popen"), ("nt", "system"), ("subprocess", "check_output"), ("builtins", "eval"),
    ("builtins", "exec"), ("builtins", "__import__"), ("builtins", "getattr"), ("builtins", "open"),
    ("shutil", "rmtree"), ("runpy", "run_path"), ("operator", "attrgetter"), ("functools", "partial"),
    ("importlib", "import_module"), ("numpy", "load"), ("numpy", "fromfile"),
    ("numpy.f2py.crackfortran", "getlincoef"), ("torch", "load"), ("torch.hub", "load"),
    ("torch._utils", "_rebuild_parameter"), ("_codecs", "decode"), ("codecs", "open"), ("pickle", "loads"),
    ("numpy._core.multiarray", "fromfile"), ("collections", "OrderedDict.clear"), ("__main__", "x"),
    ("moiety.intent.data.pickles", "ArrayUnpickler"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), HOSTILE)
def test_calls_in_a_pickle(tmp_path: Path, module: str, name: str) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "f.pkl").write_bytes(call(module, name, f"touch {mark}".encode()))
    with pytest.raises(FeatureFileError, match=rf"f.pkl is refused: it names {module}.{name}"):
        read_feature_pickle(tmp_path / "f.pkl")
    assert not mark.exists()


def cyclic() -> dict[str, Any]:
    around: list[Any] = []
    around.append(around)
    return {"a": around}


TREES: list[tuple[str, Any, str]] = [
    ("nan", {"a": np.full((2, 3), np.nan)}, "'a': not finite"),
    ("object", {"a": np.array([[object]], dtype=object).astype(str)}, "'a': numbers expected, got <U"),
    ("1-D", {"a": np.zeros(3)}, r"'a': shape \(3,\), expected"),
    ("3-D", {"a": np.zeros((2, 2, 2))}, r"'a': shape \(2, 2, 2\), expected"),
    ("no array", {"a": 3}, "'a': int instead of an array"),
    ("ragged list", {"a": [[1.0, 2.0], [[3.0], 4.0]]}, "'a': a list of unequal parts"),
    ("cyclic list", cyclic(), "'a': a list of unequal parts"),
    ("words", {"a": ["b", "c"]}, "'a': numbers expected, got <U1"),
    ("complex", {"a": np.ones((1, 2)) * 1j}, "'a': numbers expected, got complex128"),
    ("wrong key", {b"a": np.zeros((1, 2))}, "key is bytes"),
    ("widths", {"a": np.zeros((1, 2)), "b": np.zeros((1, 3))}, r"widths differ: \[2, 3\]"),
    ("too large", {"a": np.full((1, 2), 1e300)}, "'a': not finite"),
    ("empty", {}, "holds dict, expected a dict key"),
    ("nothing", None, "holds NoneType"),
    ("nested", OrderedDict(a={"b": np.zeros((1, 2))}), "'a': dict instead of an array"),
]


@pytest.mark.parametrize(("tree", "message"), [case[1:] for case in TREES], ids=[case[0] for case in TREES])
def test_pickles_of_something_else(tmp_path: Path, tree: Any, message: str) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(tree, 4))
    with pytest.raises(FeatureFileError, match=rf"f.pkl.*{message}"):
        read_feature_pickle(tmp_path / "f.pkl")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80", b"\x80\x63.", b".", b"not a pickle", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.", b"(" * 5000 + b".", b"\x80\x02Pid\n.", b"\x80\x02\x82\x01.",
        b"\x80\x04]\x94(h\x00h\x00h\x07e.",
    ],
    ids=["empty", "torn", "protocol 99", "no value", "text", "frame", "length", "marks", "person", "registry", "memo"],
)  # fmt: skip
def test_bytes_that_are_no_pickle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.pkl").write_bytes(data)
    with pytest.raises(FeatureFileError, match=r"f\.pkl is (no whole pickle|refused)"):
        read_feature_pickle(tmp_path / "f.pkl")

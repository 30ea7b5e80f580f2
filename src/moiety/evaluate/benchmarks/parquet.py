"""Rows and pictures of parquet files, the form in which some benchmarks are published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from moiety.vlm.images import decode


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of one file in order, as plain Python values.

    Args:
        path: A parquet file.
        columns: Columns to read, those that the file has; None: all.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is no parquet file.
    """
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path} is a parquet file; to read it: pip install pyarrow") from error
    try:
        with ParquetFile(path) as file:
            known = file.schema_arrow.names
            wanted = known if columns is None else [name for name in columns if name in known]
            for batch in file.iter_batches(batch_size=64, columns=wanted):
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no whole parquet file ({error}); fetch it anew") from error


class ParquetPictures:
    """Pictures inside parquet files by ``name of the file#row#column``, rows from 0; one file is held at a time.

    Args:
        paths: Name -> file.
        columns: Columns with pictures: structs with ``bytes``.
    """

    def __init__(self, paths: dict[str, Path], columns: Sequence[str]) -> None:
        self.paths, self.columns = paths, tuple(columns)
        self._held: tuple[str, list[dict[str, Any]]] = ("", [])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.split("#")[0] in self.paths and bool(self._content(name))

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name`.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        file, row, column = name.rsplit("#", 2)
        if file not in self.paths:
            raise FileNotFoundError(f"picture {name!r} is in none of {len(self.paths)} parquet files")
        content = self._content(name)
        if not content:
            raise FileNotFoundError(f"picture {name!r}: row {row} of {self.paths[file]} has none in column {column!r}")
        return decode(content, f"{name!r} of {self.paths[file]}")

    def _content(self, name: str) -> bytes | None:
        file, row, column = name.rsplit("#", 2)
        if self._held[0] != file:
            self._held = (file, list(read_parquet(self.paths[file], self.columns)))
        entries = self._held[1]
        picture = entries[int(row)].get(column) if int(row) < len(entries) else None
        return picture["bytes"] if picture else None

"""Reads rows and pictures of parquet files, the form in which the hub stores benchmarks."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from moiety.vlm.images import Pictures, decode

_HELD_BYTES = 2 * 2**30
"""Pictures kept in memory, whole row groups of them: questions come in the order of their length, not of the file."""


def _light_batches(path: Path, same: Sequence[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Batches, and the columns of pictures in them whose bytes, most of the file, are left out.

    They are where the file says that each row has its picture, and are not asked for by `same`.
    """
    with _opened(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        pictures = {field.name for field in file.schema_arrow if {"bytes", "path"} <= set(_fields(field.type))}
        light = frozenset(
            name
            for number, name in ((number, leaf.removesuffix(".bytes")) for number, leaf in enumerate(leaves))
            if name in pictures - set(same) and not any(_num_absent(group.column(number)) for group in groups)
        )
        wanted = [leaf for leaf in leaves if leaf.removesuffix(".bytes") not in light]
        for batch in file.iter_batches(batch_size=64, columns=wanted):
            yield batch, light


def _num_absent(column: Any) -> int:
    """Number of rows without a value in a part of a column; 1 if the file does not say."""
    known = column.statistics
    return int(known.null_count) if known is not None and known.has_null_count else 1


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path} is a parquet file; to read it: pip install pyarrow") from error
    try:
        return ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete parquet file ({error}); fetch it again") from error


class HubTable:
    """Rows of the parquet files of one split, in order. Rows hold the names of pictures; a picture is read when needed.

    In an entry a column of pictures holds the name of the row's picture, None where it has none, and ``COLUMN#path``
    what it was called before; a column of lists of pictures holds a list of names. Names are ``FILE#ROW#COLUMN`` and
    ``FILE#ROW#COLUMN#PLACE``.

    Args:
        files: Name -> file, in order.
        part: Which files of the split these are, in words; empty: all.
    """

    def __init__(self, files: Mapping[str, Path], part: str = "") -> None:
        self.files, self.part = dict(files), part

    def rows(self, same: Sequence[str] = ()) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """File, number (1-based) and entry of each row.

        Args:
            same: Columns of pictures whose entry gets ``COLUMN#same``: equal for equal pictures, None without one.

        Raises:
            ImportError: pyarrow is not installed.
            ValueError: a file is not a complete parquet file.
        """
        for key, path in self.files.items():
            row = 0
            for batch, light in _light_batches(path, same):
                for entry in _named(batch, same, light):
                    named = {name: _full_name(key, row, name, value) for name, value in entry.items()}
                    row += 1
                    yield str(path), row, named

    def pictures(self, names: Mapping[str, str] | None = None) -> Pictures:
        """Its pictures, by their names here or by those of `names`, which maps others to them."""
        pictures = ParquetPictures(self.files)
        return pictures if names is None else NamedPictures(pictures, names)


class _Picture:
    """A placeholder in an entry for a picture that is not read. It holds the place in a list, if there is a list."""

    def __init__(self, place: int | None = None) -> None:
        self.place = place


def _full_name(key: str, row: int, column: str, value: Any) -> Any:
    if isinstance(value, _Picture):
        return f"{key}#{row}#{column}" + ("" if value.place is None else f"#{value.place}")
    if isinstance(value, list) and value and isinstance(value[0], _Picture):
        return [_full_name(key, row, column, one) for one in value]
    return value


def _named(batch: Any, same: Sequence[str], light: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Entries of a batch with marks in the place of pictures, so that their bytes never become Python values."""
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if name in light:
            columns[name] = [_Picture() for _ in column]
            columns[f"{name}#path"] = _field(column, "path").to_pylist()
        elif _is_picture(kind):
            columns[name] = [_Picture() if size else None for size in _sizes(column)]
            if "path" in _fields(kind):
                columns[f"{name}#path"] = _field(column, "path").to_pylist()
            if name in same:
                columns[f"{name}#same"] = [_digest(_content(cell.as_py())) for cell in column]
        elif _is_list(kind) and _is_picture(kind.value_type):
            columns[name] = [_listed(cell) for cell in column]
        else:
            columns[name] = column.to_pylist()
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _listed(cell: Any) -> list[_Picture]:
    if not cell.is_valid:
        return []
    return [_Picture(place) for place, size in enumerate(_sizes(cell.values)) if size]


def _is_picture(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return "bytes" in _fields(kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _fields(kind: Any) -> list[str]:
    """Names of the fields of a struct; none of another kind."""
    from pyarrow import types

    return [kind.field(place).name for place in range(kind.num_fields)] if types.is_struct(kind) else []


def _field(column: Any, name: str) -> Any:
    from pyarrow import compute

    return compute.struct_field(column, name)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind)


def _sizes(column: Any) -> list[int]:
    """Number of bytes of each picture of a column; 0 if there is none."""
    from pyarrow import compute

    content = _field(column, "bytes") if _fields(column.type) else column
    return [size or 0 for size in compute.binary_length(content).to_pylist()]


def _digest(content: bytes | None) -> str | None:
    return hashlib.sha256(content).hexdigest()[:16] if content else None


def _content(cell: Any) -> bytes | None:
    return cell.get("bytes") if isinstance(cell, dict) else cell


class ParquetPictures:
    """Pictures inside parquet files by ``FILE#ROW#COLUMN``, in a list by ``FILE#ROW#COLUMN#PLACE``; rows from 0.

    Args:
        paths: Name -> file.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = dict(paths)
        self._held: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self._starts: dict[str, list[int]] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._split(name)[0] in self.paths and bool(self._bytes(name))

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name`.

        Raises:
            FileNotFoundError: there is no picture of that name.
        """
        file, row, column, _ = self._split(name)
        if file not in self.paths:
            raise FileNotFoundError(f"picture {name!r} is in none of {len(self.paths)} parquet files")
        content = self._bytes(name)
        if not content:
            raise FileNotFoundError(f"picture {name!r}: row {row} of {self.paths[file]} has none in column {column!r}")
        return decode(content, f"{name!r} of {self.paths[file]}")

    def _split(self, name: str) -> tuple[str, int, str, int | None]:
        parts = name.split("#")
        if len(parts) > 3 and parts[-1].isdecimal() and parts[-3].isdecimal():
            return "#".join(parts[:-3]), int(parts[-3]), parts[-2], int(parts[-1])
        if len(parts) > 2 and parts[-2].isdecimal():
            return "#".join(parts[:-2]), int(parts[-2]), parts[-1], None
        return name, 0, "", None

    def _bytes(self, name: str) -> bytes | None:
        file, row, column, place = self._split(name)
        starts = self._starts_of(file)
        group = next((number for number, start in enumerate(starts[1:]) if row < start), None)
        cells = None if group is None else self._group(file, group, column)
        if cells is None or group is None:
            return None
        value = cells[row - starts[group]].as_py()
        if place is not None:
            value = value[place] if value and place < len(value) else None
        return _content(value)

    def _starts_of(self, file: str) -> list[int]:
        """First row of each row group, and the number of rows."""
        if file not in self._starts:
            with _opened(self.paths[file]) as opened:
                starts = [0]
                for number in range(opened.num_row_groups):
                    starts.append(starts[-1] + opened.metadata.row_group(number).num_rows)
            self._starts[file] = starts
        return self._starts[file]

    def _group(self, file: str, number: int, column: str) -> Any:
        """One column of one row group. The ones used last are kept in memory."""
        key = (file, number, column)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        with _opened(self.paths[file]) as opened:
            if column not in opened.schema_arrow.names:
                return None
            self._held[key] = opened.read_row_group(number, columns=[column]).column(column).combine_chunks()
        while len(self._held) > 1 and sum(cells.nbytes for cells in self._held.values()) > _HELD_BYTES:
            self._held.popitem(last=False)
        return self._held[key]


class NamedPictures:
    """Pictures under other names.

    Args:
        pictures: The pictures.
        names: Name -> name there.
    """

    def __init__(self, pictures: Pictures, names: Mapping[str, str]) -> None:
        self.pictures, self.names = pictures, names

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.names.get(name, name) in self.pictures

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name`."""
        return self.pictures[self.names.get(name, name)]

"""Tables on disk: ECSV for people and indices, Parquet for many rows; units travel as column metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table

from lenspipe.errors import LenspipeError

Columns = Mapping[str, Sequence[Any]]


def write_ecsv(path: Path, columns: Columns, units: Mapping[str, str] | None = None) -> None:
    """Write `columns` (None = missing) to `path`, a temporary name: the caller renames."""
    table(columns, units).write(path, format="ascii.ecsv", overwrite=True)


def read_ecsv(path: Path) -> Table:
    """The table, empty text as ``""`` (ECSV itself cannot tell it from missing); `LenspipeError` if it is not one."""
    try:
        found = Table.read(path, format="ascii.ecsv")
    except Exception as error:  # astropy raises many kinds
        raise LenspipeError(f"{path}: not an ECSV table ({error}).") from None
    for name in found.colnames:
        if found[name].dtype.kind == "U":
            found[name] = found[name].filled("") if hasattr(found[name], "filled") else found[name]
    return found


def write_parquet(path: Path, columns: Columns, units: Mapping[str, str] | None = None) -> None:
    """Write `columns` with each unit in its field's metadata, key ``unit``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filled = table(columns, units)
    arrays, fields = [], []
    for name in filled.colnames:
        column = filled[name]
        array = pa.array(column.tolist())  # masked entries come out as None
        unit = (units or {}).get(name, "")
        fields.append(pa.field(name, array.type, metadata={"unit": unit} if unit else None))
        arrays.append(array)
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), path)


def table(columns: Columns, units: Mapping[str, str] | None = None) -> Table:
    """`columns` as an astropy table: None is NaN among numbers, else masked; line breaks in text become ``; ``."""
    result = Table()
    for name, values in columns.items():
        items = [v.replace("\r", "").replace("\n", "; ") if isinstance(v, str) else v for v in values]
        missing = np.array([v is None for v in items], dtype=bool)
        present = [v for v in items if v is not None]
        if not missing.any():
            column: Any = np.asarray(items if items else np.zeros(0, dtype=str))
        elif not present or not isinstance(present[0], str | bool | np.bool_):
            column = np.array([np.nan if v is None else v for v in items], dtype=np.float64)
        else:
            blank = type(present[0])()
            column = MaskedColumn([blank if v is None else v for v in items], mask=missing)
        result[name] = column
        unit = (units or {}).get(name, "")
        if unit:
            result[name].unit = unit
    return result

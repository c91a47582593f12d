"""Images in Parquet: a file or a folder of files with a column of encoded images."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection, RejectedImageError
from whylens.images.decoding import decode
from whylens.images.listing import ImageRecord, Records
from whylens.images.parquet_rows import ParquetRows

IMAGE_COLUMNS = ("image", "bytes", "jpg", "png", "webp")
CLASS_COLUMNS = ("class_name", "label_name", "label", "class", "cls")
CAPTION_COLUMNS = ("caption", "text")


class ParquetCollection(ImageCollection):
    """Rows of a Parquet data set.

    The image column is the first of `image`, `bytes`, `jpg`, `png`, `webp`: bytes, or a struct with
    a field `bytes` as Hugging Face writes it. An `id` column gives ids, otherwise the row number.
    Records are in the order of the rows, so that neighbours are read together.
    """

    def __init__(self, uri: str) -> None:
        import pyarrow.dataset as ds

        self.uri = uri
        try:
            dataset = ds.dataset(uri, format="parquet")
            names = dataset.schema.names
            self.column_names = tuple(names)
            count = dataset.count_rows()
        except FileNotFoundError:
            raise UsageError(f"no file or folder {uri}") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{uri} can't be read as Parquet: {error}") from error
        if count == 0:
            raise UsageError(f"no images in {uri}: the data set has no rows")
        self._column = next((c for c in IMAGE_COLUMNS if c in names), "")
        if not self._column:
            raise UsageError(
                f"{uri} has no image column ({', '.join(IMAGE_COLUMNS)}); it has {', '.join(names)}"
            )
        kind = dataset.schema.field(self._column).type
        if not _holds_bytes(kind):
            raise UsageError(
                f"{uri}: the column {self._column} is of the type {kind}: expected encoded images "
                "as binary, or a struct with a field `bytes`"
            )
        wanted = {
            "id": next((c for c in ("id", "key", "__key__") if c in names), None),
            "class": next((c for c in CLASS_COLUMNS if c in names), None),
            "caption": next((c for c in CAPTION_COLUMNS if c in names), None),
        }
        table = dataset.to_table(columns=[c for c in wanted.values() if c])
        columns = {k: _words(table[c]) if c else None for k, c in wanted.items()}
        rows = np.arange(count)
        ids = pc.utf8_lpad(pa.array(rows).cast(pa.string()), 9, "0").cast(pa.large_string())
        if columns["id"] is not None:
            ids = pc.coalesce(columns["id"], ids)
        twice = count - pc.count_distinct(ids).as_py()
        if twice:
            raise UsageError(f"{uri}: {twice} ids occur more than once")
        self.records = Records(
            ids,
            f"{uri}#",
            tails=pa.array(rows).cast(pa.string()),
            classes=columns["class"],
            captions=columns["caption"],
            place=(rows,),
        )
        self._rows = ParquetRows(dataset, self._column)

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        (row,) = record.place
        value = self._rows[row]
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise RejectedImageError("no image in this row")
        return decode(value)

    def column(self, name: str) -> list[Any]:
        """A column's values, in the order of `records`.

        Raises
        ------
        UsageError
            If there is no such column.
        """
        import pyarrow.dataset as ds

        if name not in self.column_names:
            raise UsageError(
                f"{self.uri} has no column {name!r}; it has {', '.join(self.column_names)}"
            )
        table = ds.dataset(self.uri, format="parquet").to_table(columns=[name])
        values: list[Any] = table[name].to_pylist()
        return [values[record.place[0]] for record in self.records]


def _words(column: Any) -> Any:
    """Values as Python writes them."""
    import pyarrow.types as types

    kind = column.type
    if types.is_dictionary(kind):
        return _words(column.cast(kind.value_type))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind):
        return column.cast(pa.large_string())
    return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.large_string())


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))

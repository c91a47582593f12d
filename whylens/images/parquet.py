"""Images in Parquet: a file or a folder of files with a column of encoded images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection, ImageRecord, RejectedImageError
from whylens.images.decoding import decode

IMAGE_COLUMNS = ("image", "bytes", "jpg", "png", "webp")
CLASS_COLUMNS = ("class_name", "label_name", "label", "class", "cls")
CAPTION_COLUMNS = ("caption", "text")


class ParquetCollection(ImageCollection):
    """Rows of a Parquet data set.

    The image column is the first of `image`, `bytes`, `jpg`, `png`, `webp`: bytes, or a struct with
    a field `bytes` as Hugging Face writes it. An `id` column gives ids, otherwise the row number.
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
        columns = {k: table[c].to_pylist() if c else [None] * count for k, c in wanted.items()}
        records = []
        self._rows: dict[str, int] = {}
        for row in range(count):
            given = columns["id"][row]
            name = f"{row:09d}" if given is None else str(given)
            label = columns["class"][row]
            caption = columns["caption"][row]
            self._rows[name] = row
            records.append(
                ImageRecord(
                    name,
                    f"{uri}#{row}",
                    None if label is None else str(label),
                    None if caption is None else str(caption),
                )
            )
        if len(self._rows) < count:
            raise UsageError(f"{uri}: {count - len(self._rows)} ids occur more than once")
        self.records = tuple(sorted(records, key=lambda r: r.id))

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        import pyarrow.dataset as ds

        row = self._rows[record.id]
        table = ds.dataset(self.uri, format="parquet").take([row], columns=[self._column])
        value: Any = table[self._column][0].as_py()
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
        return [values[self._rows[record.id]] for record in self.records]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))

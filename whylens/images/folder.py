"""Images in a folder: flat, or one subfolder a class; local, or any fsspec URL."""

from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.filesystem import filesystem
from whylens.images.collection import ImageCollection, Rejected, RejectedImageError
from whylens.images.decoding import SUFFIXES, decode
from whylens.images.listing import ImageRecord, Records


class FolderCollection(ImageCollection):
    """All image files below a folder; the first subfolder's name is the class.

    Hidden files are passed over; other files that aren't images are listed as rejected.
    """

    def __init__(self, uri: str) -> None:
        self.uri = self._folder = uri
        system, root = filesystem(uri)
        if not system.isdir(root):
            raise UsageError(f"no folder {uri}")
        ids, numbers, rejected = [], [], []
        classes: dict[str, int] = {}
        # Folder by folder: what a filesystem says of a file takes far more room than its name.
        for _, _, files in system.walk(root, detail=True):
            found, numbers_here = [], []
            for info in files.values():
                path = info["name"]
                name = path[len(root) :].lstrip("/")
                parts = PurePosixPath(name).parts
                if any(part.startswith(".") for part in parts):
                    continue
                suffix = PurePosixPath(name).suffix.lower()
                if suffix not in SUFFIXES:
                    what = f"a {suffix} file" if suffix else "a file without a suffix"
                    rejected.append(Rejected(name, path, f"not an image: {what}"))
                elif info.get("size") == 0:
                    rejected.append(Rejected(name, path, "empty file"))
                else:
                    found.append(name)
                    known = classes.setdefault(parts[0], len(classes)) if len(parts) > 1 else None
                    numbers_here.append(known)
            ids.append(pa.array(found, pa.large_string()))
            numbers.append(pa.array(numbers_here, pa.int32()))
        if not any(map(len, ids)):
            others = f" ({len(rejected)} other files)" if rejected else ""
            raise UsageError(
                f"no images in {uri}{others}: expected {', '.join(sorted(SUFFIXES))} files, "
                "directly or in one subfolder a class"
            )
        names = pa.DictionaryArray.from_arrays(
            pa.concat_arrays(numbers), pa.array(list(classes), pa.large_string())
        )
        self.records = Records(pa.concat_arrays(ids), f"{root}/", classes=names).sorted()
        self.rejected = tuple(sorted(rejected, key=lambda r: r.path))

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        system, _ = filesystem(self._folder)
        try:
            data = system.cat_file(record.path)
        except OSError as error:
            raise RejectedImageError(f"can't be read: {error.strerror or error}") from None
        return decode(data)

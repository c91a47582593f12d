"""Images in a WebDataset tar: files that share a key are one sample."""

import tarfile
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection, ImageRecord, Rejected, RejectedImageError
from whylens.images.decoding import SUFFIXES, decode


class TarCollection(ImageCollection):
    """Images of a .tar; `.cls` gives the class, `.txt` the caption of the same key."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._place: dict[str, tuple[int, int]] = {}
        images: dict[str, str] = {}
        notes: dict[tuple[str, str], str] = {}
        rejected = []
        try:
            with tarfile.open(uri) as tar:
                for member in tar:
                    if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                        continue
                    folder, _, file = member.name.rpartition("/")
                    stem, _, extension = file.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    suffix = f".{extension.rsplit('.', 1)[-1].lower()}"
                    if suffix in SUFFIXES:
                        images[key] = member.name
                        self._place[key] = (member.offset_data, member.size)
                    elif suffix in (".cls", ".txt"):
                        content = tar.extractfile(member)
                        text = content.read().decode("utf-8", "replace") if content else ""
                        notes[key, suffix] = text.strip()
                    elif suffix != ".json":
                        reason = f"not an image: a {suffix} file"
                        rejected.append(Rejected(member.name, f"{uri}/{member.name}", reason))
        except FileNotFoundError:
            raise UsageError(f"no file {uri}") from None
        except (tarfile.TarError, OSError) as error:
            raise UsageError(f"{uri} can't be read as a tar: {error}") from error
        if not images:
            raise UsageError(f"no images in {uri}")
        self.records = tuple(
            ImageRecord(k, f"{uri}/{images[k]}", notes.get((k, ".cls")), notes.get((k, ".txt")))
            for k in sorted(images)
        )
        self.rejected = tuple(rejected)

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        offset, size = self._place[record.id]
        try:
            with open(self.uri, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise RejectedImageError(f"can't be read: {error.strerror or error}") from None
        return decode(data)

"""Images in a WebDataset tar: files that share a key are one sample."""

import tarfile
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection, ImageRecord, Rejected, RejectedImageError
from whylens.images.decoding import SUFFIXES, decode


class TarCollection(ImageCollection):
    """Images of a .tar; `.cls` gives the class, `.txt` the caption of the same key.

    A sample is one image: of `a.jpg` and `a.mask.png` the one with the plain suffix counts, and of
    several such the first; the others are listed as rejected.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        found: dict[str, list[tarfile.TarInfo]] = {}
        notes: dict[tuple[str, str], str] = {}
        rejected = []
        try:
            with tarfile.open(uri, "r:") as tar:
                for member in tar:
                    if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                        continue
                    folder, _, file = member.name.rpartition("/")
                    stem, _, extension = file.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    suffix = f".{extension.rsplit('.', 1)[-1].lower()}"
                    if suffix in SUFFIXES:
                        found.setdefault(key, []).append(member)
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
            raise UsageError(
                f"{uri} can't be read as a tar without compression: {error}"
            ) from error
        if not found:
            raise UsageError(f"no images in {uri}")
        self._place: dict[str, tuple[int, int]] = {}
        records = []
        for key in sorted(found):
            first, *others = sorted(
                found[key], key=lambda m: m.name.count(".") > key.count(".") + 1
            )
            self._place[key] = first.offset_data, first.size
            path = f"{uri}/{first.name}"
            records.append(
                ImageRecord(key, path, notes.get((key, ".cls")), notes.get((key, ".txt")))
            )
            reason = f"the sample {key} has the image {first.name} already"
            rejected += [Rejected(other.name, f"{uri}/{other.name}", reason) for other in others]
        self.records, self.rejected = tuple(records), tuple(rejected)

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        offset, size = self._place[record.id]
        try:
            with open(self.uri, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise RejectedImageError(f"can't be read: {error.strerror or error}") from None
        return decode(data)

"""Images in a WebDataset tar: files that share a key are one sample."""

import tarfile
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError
from whylens.images.collection import ImageCollection, Rejected, RejectedImageError
from whylens.images.decoding import SUFFIXES, decode
from whylens.images.listing import ImageRecord, Records


class TarCollection(ImageCollection):
    """Images of a .tar; `.cls` gives the class, `.txt` the caption of the same key.

    A sample is one image: of `a.jpg` and `a.mask.png` the one with the plain suffix counts, and of
    several such the first; the others are listed as rejected.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        found: dict[str, list[tuple[str, int, int]]] = {}
        notes: dict[tuple[str, str], str] = {}
        rejected = []
        try:
            with tarfile.open(uri, "r:") as tar:
                while (member := tar.next()) is not None:
                    # It keeps all that it has read, a kilobyte a member.
                    tar.members = []  # type: ignore[attr-defined]
                    if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                        continue
                    folder, _, file = member.name.rpartition("/")
                    stem, _, extension = file.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    suffix = f".{extension.rsplit('.', 1)[-1].lower()}"
                    if suffix in SUFFIXES:
                        found.setdefault(key, []).append(
                            (member.name, member.offset_data, member.size)
                        )
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
        keys = sorted(found)
        names, offsets, sizes = [], [], []
        for key in keys:
            plain = key.count(".") + 1
            (name, offset, size), *others = sorted(
                found[key], key=lambda member: member[0].count(".") > plain
            )
            names.append(name)
            offsets.append(offset)
            sizes.append(size)
            reason = f"the sample {key} has the image {name} already"
            rejected += [Rejected(other, f"{uri}/{other}", reason) for other, _, _ in others]
        self.records = Records(
            keys,
            f"{uri}/",
            tails=names,
            classes=[notes.get((key, ".cls")) for key in keys],
            captions=[notes.get((key, ".txt")) for key in keys],
            place=(offsets, sizes),
        )
        self.rejected = tuple(rejected)

    def load(self, record: ImageRecord) -> NDArray[np.uint8]:
        offset, size = record.place
        try:
            with open(self.uri, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise RejectedImageError(f"can't be read: {error.strerror or error}") from None
        return decode(data)

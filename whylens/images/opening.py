"""`open_collection`: any image collection by what it is called."""

from urllib.parse import parse_qsl, urlencode

from whylens.images.collection import ImageCollection
from whylens.images.layouts import LAYOUTS, LayoutCollection


def open_collection(uri: str) -> ImageCollection:
    """List a collection: a folder, Parquet, a WebDataset .tar, or planted:<split>?count=N&seed=S.

    LAYOUT:FOLDER?split=NAME is a data set with attributes, laid out as its authors do
    (`whylens.images.layouts`); watermarked:COLLECTION is another twice, without and with a
    watermark.

    Raises
    ------
    UsageError
        If it isn't there, can't be read, or holds no images.
    """
    if uri.startswith("planted:"):
        from whylens.images.planted import PlantedCollection

        split, _, query = uri.removeprefix("planted:").partition("?")
        return PlantedCollection(uri, split, dict(parse_qsl(query)))
    if uri.startswith("watermarked:"):
        from whylens.images.watermark import WatermarkedCollection

        inner, _, query = uri.removeprefix("watermarked:").partition("?")
        options = dict(parse_qsl(query))
        font = options.pop("font", None)
        rest = f"?{urlencode(options)}" if options else ""
        return WatermarkedCollection(uri, open_collection(inner + rest), font)
    layout, colon, rest = uri.partition(":")
    if colon and layout in LAYOUTS:
        folder, _, query = rest.partition("?")
        return LayoutCollection(uri, layout, folder, dict(parse_qsl(query)))
    if uri.endswith(".tar"):
        from whylens.images.webdataset import TarCollection

        return TarCollection(uri)
    if uri.startswith("parquet:") or uri.endswith(".parquet"):
        from whylens.images.parquet import ParquetCollection

        return ParquetCollection(uri.removeprefix("parquet:"))
    from whylens.images.folder import FolderCollection

    return FolderCollection(uri)

"""Image collections, listed and read: folders, Parquet, WebDataset, planted drawings."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily

if TYPE_CHECKING:
    from whylens.images.collection import (
        ImageCollection,
        Rejected,
        RejectedImageError,
        labels_of,
        units,
    )
    from whylens.images.listing import ImageRecord, Records
    from whylens.images.matching import match_classes, near_classes
    from whylens.images.opening import open_collection

__all__ = [
    "ImageCollection",
    "ImageRecord",
    "Records",
    "Rejected",
    "RejectedImageError",
    "labels_of",
    "match_classes",
    "near_classes",
    "open_collection",
    "units",
]

__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(
            ("ImageCollection", "Rejected", "RejectedImageError", "labels_of", "units"),
            "collection",
        ),
        **dict.fromkeys(("ImageRecord", "Records"), "listing"),
        **dict.fromkeys(("match_classes", "near_classes"), "matching"),
        "open_collection": "opening",
    },
)

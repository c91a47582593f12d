"""Reading image collections."""

from whylens.images.collection import (
    ImageCollection,
    ImageRecord,
    Rejected,
    RejectedImageError,
    labels_of,
    units,
)
from whylens.images.matching import match_classes, near_classes
from whylens.images.opening import open_collection

__all__ = [
    "ImageCollection",
    "ImageRecord",
    "Rejected",
    "RejectedImageError",
    "labels_of",
    "match_classes",
    "near_classes",
    "open_collection",
    "units",
]

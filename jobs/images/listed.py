"""The images that a run began with: it goes on with these, whatever was added since."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from whylens.errors import UsageError
from whylens.images import ImageCollection
from whylens.jobs.words import amount, listed
from whylens.runs import Run

# One part a collection: its ids, in the order that units are slices of.
LISTINGS = "listings"


def as_begun(run: Run, tag: str, collection: ImageCollection) -> ImageCollection:
    """A collection as it was when the run first listed it; images added since are named.

    Units are slices of the listing: with other images in it a slice would hold others than the part
    of its name.

    Raises
    ------
    UsageError
        If images that the run began with are gone, or come in another order.
    """
    records = collection.records
    fingerprint = records.fingerprint()
    known = run.record().get("collections", {}).get(tag, {})
    listings = run.table(LISTINGS)
    if not listings.done(tag):
        ids = records.ids()
        listings.write(tag, pa.table({"id": ids, "collection": pa.array([tag] * len(ids))}))
    elif known.get("fingerprint") == fingerprint:
        return collection
    began = listings.read_part(tag, ["id"])["id"]
    if began.equals(records.ids()):
        run.note_collection(tag, len(records), fingerprint)
        return collection
    gone = _without(began, records.ids())
    if len(gone):
        raise UsageError(
            f"{collection.uri} lacks {amount(len(gone), 'image')} that the run in {run.folder} "
            f"began with: {listed(gone.to_pylist())}. Put them back, or name another folder "
            "with --out"
        )
    kept = records.only(began)
    if not kept.ids().equals(began):
        raise UsageError(
            f"the images of {collection.uri} come in another order than when the run in "
            f"{run.folder} began: name another folder with --out"
        )
    added = _without(records.ids(), began)
    run.warn(
        f"{amount(len(added), 'image')} came to {collection.uri} since this run began, and are not "
        f"in it: {listed(added.to_pylist())}. Name another folder with --out to have them looked at"
    )
    return collection.only(kept)


def _without(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others)))

"""Images that show a finding: exemplars of its class and mined ones, each with its heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from whylens.cluster.kept import kept
from whylens.images import match_classes, open_collection
from whylens.images.tensors import thumbnail, to_png, to_tensor
from whylens.jobs.columns import columns
from whylens.jobs.findings.stored import read_components
from whylens.jobs.images.embedded import IMAGES, LABELS, shown_classes
from whylens.jobs.images.index import index_of
from whylens.jobs.images.rejected import ReadableImages, write_unreadable
from whylens.neural_pca import ClassComponents, component_exemplars
from whylens.runs import Run
from whylens.runs.lineage import Lineage

EXEMPLARS, MINED = "exemplars", "mined"
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "class_index", "component", "place"),
        ("image_id", pa.string()),
        ("label", pa.int32()),
        *columns(pa.float32(), "alpha", "p_class"),
        # Shares of the positive heat, and of the pixels; null where no mask is known.
        *columns(pa.float32(), "heat_on_object", "object_area"),
        # Areas under p_k as pixels are taken out and put in by falling heat, and by random heat;
        # null: not asked for.
        *columns(pa.float32(), "deletion", "insertion", "random_deletion", "random_insertion"),
        *columns(pa.binary(), "heatmap", "thumb"),
    ]
)


@dataclass(frozen=True)
class FindingUnit:
    """One finding."""

    name: str
    row: Mapping[str, Any]


class Exhibitor:
    """A worker: holds the index and the collections, shows one finding a call."""

    def __init__(
        self, run: Run, lineage: Lineage, count: int, curves: int, index: str, device: str
    ) -> None:
        """Load the classifier, list the collections, open or build the index over features."""
        from whylens.classifiers import load_classifier

        self.run, self.lineage, self.count, self.curves = run, lineage, count, curves
        self.classifier = kept(load_classifier, str(lineage.setting("classifier")), device)
        self.index = index_of(lineage, "main", self.classifier, index)
        seen = lineage.table(IMAGES).read(LABELS)
        self.main = seen.filter(pa.compute.equal(seen["collection"], "main"))
        self.images = ReadableImages(open_collection(str(lineage.setting("images"))), "main")
        second = lineage.setting("second")
        self.pool = (
            ReadableImages(open_collection(str(second)), "second") if second else self.images
        )

    def __call__(self, unit: FindingUnit) -> int:
        """Write exemplars and mined images of a finding; how many exemplars."""
        k, component = unit.row["class_index"], unit.row["component"]
        found = read_components(self.lineage, k)
        of_class = self.main["id"].filter(pa.array(shown_classes(self.main) == k)).to_pylist()
        among = np.asarray([self.index.row_of(name) for name in of_class], np.int64)
        best = component_exemplars(self.index, found, component, self.count, among=among)
        mined = self._show(self.pool, unit.row["mined_ids"][: self.count], found, component)
        shown = self._show(self.images, best.ids, found, component, curves=self.curves)
        write_unreadable(self.run, unit.name, *dict.fromkeys((self.images, self.pool)))
        for table, rows in ((MINED, mined), (EXEMPLARS, shown)):
            self.run.table(table).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(shown)

    def _show(
        self,
        images: ReadableImages,
        ids: Sequence[str],
        found: ClassComponents,
        component: int,
        *,
        curves: int = 0,
    ) -> list[dict[str, Any]]:
        """Rows of the images that can be read; with steps of `curves`, what deletion and insertion
        say, too."""
        import torch

        from whylens.classifiers.curves import deletion, insertion, random_heat
        from whylens.classifiers.heatmap import component_heatmap, overlay

        pixels = images.load(ids)
        if not pixels:
            return []
        k = found.class_index
        records = images.collection.records.with_ids(list(pixels))
        seen = self.classifier.eval_transform
        seen = seen.at(max(seen.size, 160))
        masks = images.masks(pixels)
        pictures = [seen(image) for image in pixels.values()]
        shown = torch.stack([to_tensor(picture) for picture in pictures])
        shown = shown.to(self.classifier.device)
        direction = torch.from_numpy(found.directions[component]).float().to(shown.device)
        heat = component_heatmap(self.classifier, shown, direction).float()
        heats, areas = heat.cpu().numpy(), {}
        if curves:
            classes = torch.full((len(shown),), k, device=shown.device)
            random = random_heat(heat)
            for name, area in (("deletion", deletion), ("insertion", insertion)):
                areas[name] = area(self.classifier, shown, heat, classes, curves).tolist()
                drawn = [area(self.classifier, shown, one, classes, curves) for one in random]
                areas[f"random_{name}"] = torch.stack(drawn).mean(0).tolist()
        with torch.no_grad():
            features = self.classifier.features(shown)
            p = self.classifier.activation(self.classifier.head(features))
        alphas = found.alphas(features.float().cpu().numpy())[:, component].tolist()
        names = {record.class_name for name in pixels if (record := records[name]).class_name}
        known = match_classes(names, self.classifier.class_names)
        return [
            {
                "class_index": k,
                "component": component,
                "place": place,
                "image_id": name,
                "label": known.get(records[name].class_name or "", -1),
                "alpha": alphas[place],
                "p_class": float(p[place, k]),
                **overlap(heats[place], seen.mask(masks[name]) if name in masks else None),
                **{name: values[place] for name, values in areas.items()},
                "heatmap": to_png(overlay(pictures[place], heats[place])),
                "thumb": thumbnail(pictures[place], 224),
            }
            for place, name in enumerate(pixels)
        ]


def overlap(heat: np.ndarray, mask: np.ndarray | None) -> dict[str, float | None]:
    """The columns heat_on_object and object_area of one image; None where nobody knows.

    Heat and mask, [S, S], are of the image as the classifier is shown it.
    """
    import torch

    from whylens.classifiers.heatmap import share_inside

    if mask is None:
        return {"heat_on_object": None, "object_area": None}
    share = float(share_inside(torch.from_numpy(heat)[None], torch.from_numpy(mask)[None]))
    # Where nothing raises the component there is no heat to share out.
    return {"heat_on_object": None if np.isnan(share) else share, "object_area": float(mask.mean())}

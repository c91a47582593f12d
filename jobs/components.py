"""The components job: neural PCA of every class, mined and judged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from whylens.cluster.placement import Placement
from whylens.errors import WhylensError
from whylens.jobs.embed import TABLE as IMAGES
from whylens.jobs.embed import Embedded, read_embedded
from whylens.jobs.lineage import Lineage
from whylens.jobs.spec import JobSpec
from whylens.jobs.working import work_through
from whylens.neural_pca import ClassComponents, class_components, judge, mine, typical_words
from whylens.neural_pca.components import from_arrays, to_arrays
from whylens.runs import Run

TABLE = "components"
COLUMNS = ("id", "label", "class_name", "caption", "features", "top5_classes", "collection")
# Words are read off images above this quantile of alpha, weighted by p_k.
WORDS_FROM = 0.9


class ComponentSettings(BaseModel):
    """How components are found and judged."""

    model_config = ConfigDict(extra="forbid")

    top: int = Field(32, ge=1, description="Components a class, by eigenvalue.")
    mined: int = Field(40, ge=1, description="Images mined a component.")
    min_images: int = Field(
        10, ge=2, description="Classes with fewer images are skipped, with a warning."
    )
    classes: list[str] = Field(
        default_factory=list, description="Classes by name or number; empty: all with images."
    )


class ComponentsSpec(JobSpec):
    """Neural PCA on an embedded collection."""

    source: str = Field(description="Run folder of an embed job.")
    components: ComponentSettings = Field(
        default_factory=lambda: ComponentSettings(), description="How components are found."
    )


@dataclass(frozen=True)
class ClassUnit:
    """One class."""

    name: str
    class_index: int


def components(
    run: Run, lineage: Lineage, settings: ComponentSettings, placement: Placement
) -> None:
    """Find, mine and judge the components of each class; one unit a class."""
    from whylens.classifiers import load_classifier

    name = str(lineage.setting("classifier"))
    classifier = load_classifier(name)
    wanted = [classifier.class_index(c) for c in settings.classes]
    main = read_embedded(lineage.table(IMAGES).read(COLUMNS), "main")
    labels = labels_used(main)
    if unlabelled := int((main.labels < 0).sum()):
        run.warn(
            f"{unlabelled} of {len(main.labels)} images have no class that {name} knows: "
            "its own predictions stand in for their labels"
        )
    counts = np.bincount(labels[labels >= 0], minlength=len(classifier.class_names))
    present = wanted or np.flatnonzero(counts).tolist()
    enough = [k for k in present if counts[k] >= settings.min_images]
    if len(enough) < len(present):
        few = [classifier.class_names[k] for k in present if k not in enough]
        run.warn(
            f"{len(few)} classes have fewer than {settings.min_images} images and are skipped: "
            + ", ".join(few[:5])
            + (", ..." if len(few) > 5 else "")
        )
    if not enough:
        raise WhylensError(
            f"no class has {settings.min_images} images: give more images, or lower "
            "components.min_images"
        )
    work_through(
        run,
        TABLE,
        [ClassUnit(f"class-{k:06d}", k) for k in enough],
        ComponentFinder,
        (run, lineage, name, settings),
        placement.model_copy(update={"num_gpus": 0.0}),
    )


def labels_used(main: Embedded) -> np.ndarray:
    """The images' labels [N]; the prediction stands in for one that is missing."""
    return np.where(main.labels < 0, main.predicted, main.labels)


class ComponentFinder:
    """A worker: holds the features of both collections, does one class a call."""

    def __init__(
        self, run: Run, lineage: Lineage, classifier: str, settings: ComponentSettings
    ) -> None:
        """Read the images table and the classifier's head."""
        from whylens.classifiers import load_classifier

        self.run, self.settings = run, settings
        loaded = load_classifier(classifier)
        self.names, self.fingerprint = loaded.class_names, loaded.fingerprint
        self.weight = loaded.head.weight.detach().double().numpy()
        self.bias = loaded.head.bias.detach().double().numpy()
        table = lineage.table(IMAGES).read(COLUMNS)
        self.main = read_embedded(table, "main")
        self.labels = labels_used(self.main)
        has_second = "second" in table["collection"].unique().to_pylist()
        self.pool = read_embedded(table, "second") if has_second else self.main
        self.pool_labels = self.pool.labels if has_second else self.labels
        logits = self.pool.features @ self.weight.T.astype(np.float32) + self.bias.astype(
            np.float32
        )
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        self.pool_probabilities = exponentials / exponentials.sum(1, keepdims=True)

    def __call__(self, unit: ClassUnit) -> int:
        """Write the class's components and their evidence; how many."""
        k = unit.class_index
        inside = self.labels == k
        found = class_components(
            k, self.weight[k], float(self.bias[k]), self.main.features[inside], self.settings.top
        )
        without = self.pool_labels != k
        mined = mine(
            found, self.pool.features, self.pool_probabilities, without, self.settings.mined
        )
        evidence = judge(
            found,
            self.main.features[inside],
            self.main.features[~inside],
            self.pool.features,
            self.pool_probabilities,
            without,
            mined,
        )
        alphas = found.alphas(self.pool.features[without])
        texts = [t for t, outside in zip(self.pool.texts, without, strict=True) if outside]
        p_without = self.pool_probabilities[without, k]
        rows = []
        for index in range(len(found.variances)):
            row: dict[str, Any] = {
                "class_index": k,
                "class_name": self.names[k],
                "component": index,
                "images": int(inside.sum()),
                "variance": float(found.variances[index]),
                "variance_share": float(evidence.variance_share[index]),
                "logit_share": float(evidence.contrast_share[index]),
                "sufficiency_share": float(evidence.sufficiency_share[index]),
                "sufficiency_mean_p": float(evidence.sufficiency_mean_p[index]),
                "lift": float(evidence.lift[index]),
                "suspicion": float(evidence.suspicion[index]),
                "suspicious": bool(evidence.suspicious[index]),
                "same_as": int(evidence.same_as[index]),
                "mined_ids": [self.pool.ids[r] for r in mined.rows[index]],
                "mined_alphas": mined.alphas[index].tolist(),
                "mined_p": mined.probabilities[index].tolist(),
                "words": [],
                "word_lifts": [],
            }
            if evidence.suspicion[index] > 0.05:
                high = alphas[:, index] > np.quantile(alphas[:, index], WORDS_FROM)
                words = typical_words(texts, np.where(high, p_without, 0.0))
                row["words"] = [word for word, _ in words]
                row["word_lifts"] = [lift for _, lift in words]
            rows.append(row)
        self.run.storage.write(arrays_name(k), _serialise(found, self.fingerprint))
        self.run.table(TABLE).write(unit.name, pa.Table.from_pylist(rows, schema=SCHEMA))
        return len(rows)


SCHEMA = pa.schema(
    [
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("component", pa.int32()),
        ("images", pa.int32()),
        *((n, pa.float64()) for n in ("variance", "variance_share", "logit_share")),
        *((n, pa.float64()) for n in ("sufficiency_share", "sufficiency_mean_p", "lift")),
        ("suspicion", pa.float64()),
        ("suspicious", pa.bool_()),
        ("same_as", pa.int32()),
        ("mined_ids", pa.list_(pa.string())),
        ("mined_alphas", pa.list_(pa.float64())),
        ("mined_p", pa.list_(pa.float64())),
        ("words", pa.list_(pa.string())),
        ("word_lifts", pa.list_(pa.float64())),
    ]
)


def arrays_name(class_index: int) -> str:
    """Where a class's arrays lie in the run folder."""
    return f"components/class-{class_index:06d}.safetensors"


def _serialise(found: ClassComponents, fingerprint: str) -> bytes:
    from safetensors.numpy import save

    arrays = {k: np.ascontiguousarray(v) for k, v in to_arrays(found).items()}
    return save(arrays, {"classifier": json.dumps(fingerprint)})


def read_components(lineage: Lineage, class_index: int) -> ClassComponents:
    """A class's components, as a run or its sources keep them."""
    from safetensors.numpy import load

    return from_arrays(load(lineage.file(TABLE, arrays_name(class_index))))

"""A run of made-up features of two collections, and an index of it: no image is read."""

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from whylens.jobs.findings.stored import arrays_name
from whylens.jobs.images.index import IndexSpec, index
from whylens.neural_pca import class_components
from whylens.neural_pca.components import to_arrays
from whylens.runs import Run
from whylens.runs.lineage import Lineage

CLASSIFIER = "planted:biased"
PARTS, EACH = 6, 50
COUNT = PARTS * EACH


def features_of(classifier, count=COUNT, seed=0):
    """float16 features in groups, as embed stores them; labels are the groups."""
    generator = np.random.default_rng(seed)
    classes, size = len(classifier.class_names), classifier.feature_size
    centres = generator.gamma(1.0, 2.0, (classes, size))
    labels = np.arange(count) % classes
    features = centres[labels] + generator.normal(size=(count, size))
    return np.maximum(features, 0).astype(np.float16), labels


def write_images(run, classifier, tag, features, labels):
    weight = classifier.head.weight.detach().numpy()
    logits = features.astype(np.float32) @ weight.T + classifier.head.bias.detach().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top = np.argsort(-p, axis=1)[:, :5]
    for part in range(0, len(features), EACH):
        rows = slice(part, part + EACH)
        run.table("images").write(
            f"{tag}-{part:06d}",
            pa.table(
                {
                    "id": [f"{tag}-{part + place}" for place in range(len(features[rows]))],
                    "label": pa.array(labels[rows], pa.int32()),
                    "class_name": [classifier.class_names[k] for k in labels[rows]],
                    "caption": pa.nulls(len(features[rows]), pa.string()),
                    "features": pa.FixedSizeListArray.from_arrays(
                        pa.array(features[rows].ravel()), features.shape[1]
                    ),
                    "top5_classes": pa.array(list(top[rows]), pa.list_(pa.int32())),
                    "top5_probabilities": pa.array(
                        list(np.take_along_axis(p, top, 1)[rows]), pa.list_(pa.float32())
                    ),
                    "p_label": p[np.arange(len(p)), labels][rows],
                    "collection": [tag] * len(features[rows]),
                }
            ),
        )


def embedded(folder, classifier):
    """(an embed run of two collections with components of class 1, the main features, labels)."""
    run = Run.start(str(folder / "embed"), "embed", {"classifier": CLASSIFIER})
    features, labels = features_of(classifier)
    write_images(run, classifier, "main", features, labels)
    write_images(run, classifier, "second", *features_of(classifier, 70, seed=1))
    weight = classifier.head.weight.detach().double().numpy()
    found = class_components(1, weight[1], 0.5, features[labels == 1].astype(np.float32), 6)
    run.storage.write(arrays_name(1), save({k: np.array(v) for k, v in to_arrays(found).items()}))
    run.table("components").write("class-000001", pa.table({"class_index": [1]}))
    return run, features.astype(np.float64), labels, found


def indexed(source, folder, **settings):
    """An index run of an embed run."""
    spec = IndexSpec(source=source.folder, out=str(folder / "index"), index=settings)
    run = Run.start(spec.out, "index", spec.model_dump(mode="json"))
    index(run, Lineage(run), spec.index, spec.placement)
    run.finish()
    return run

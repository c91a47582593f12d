"""The images table: the numbers of a plain loop, whichever way a collection goes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.cluster.session import session
from whylens.images import open_collection
from whylens.images.eval_transform import EvalTransform
from whylens.jobs.images.embed import EmbedSpec, embed
from whylens.jobs.images.embedded import read_embedded
from whylens.jobs.images.embedding import Embedder, ImageUnit, decode
from whylens.jobs.images.rejected import write_rejected
from whylens.runs import Run

CLASSIFIER = "planted:biased"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Twelve pictures of two classes that the classifier knows and one that it does not, with a
    broken file, and one that is not an image."""
    rng = np.random.default_rng(0)
    for k in range(12):
        name = ("fish", "ring", "zebra")[k % 3]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (90, 70 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k:02d}.png")
    (tmp_path / "photos" / "fish" / "05.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "notes.txt").write_text("x")
    return str(tmp_path / "photos")


def plain_loop(uri: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and probabilities of each image that Pillow opens, one at a time."""
    classifier, found = load_classifier(CLASSIFIER), {}
    side = classifier.image_size
    for path in sorted(Path(uri).rglob("*.png")):
        image = Image.open(path).convert("RGB")
        width, height = image.size
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
        square = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
        batch = torch.from_numpy(square / np.float32(255)).permute(2, 0, 1)[None]
        with torch.no_grad():
            phi = classifier.features(batch)
            p = torch.softmax(phi @ classifier.head.weight.T + classifier.head.bias, 1)
        found[str(path.relative_to(uri))] = phi[0].numpy(), p[0].numpy()
    return found


def check(run: Run, uri: str) -> None:
    """The run's tables against the plain loop."""
    truth, names = plain_loop(uri), load_classifier(CLASSIFIER).class_names
    table = run.table("images").read()
    D = len(next(iter(truth.values()))[0])
    assert table["id"].to_pylist() == sorted(truth)
    assert str(table.schema.field("features").type) == f"fixed_size_list<element: halffloat>[{D}]"
    for row in table.to_pylist():
        phi, p = truth[row["id"]]
        assert np.allclose(row["features"], phi, rtol=2e-3, atol=2e-3)
        assert row["top5_classes"] == np.argsort(-p)[:5].tolist()
        assert np.allclose(row["top5_probabilities"], np.sort(p)[::-1][:5], atol=1e-5)
        known = row["class_name"] in names
        label = names.index(row["class_name"]) if known else -1
        assert row["label"] == label
        assert np.allclose(row["p_label"], p[label] if known else np.nan, atol=1e-5, equal_nan=True)
        assert row["path"].endswith(row["id"])
    rejected = run.table("rejected").read().to_pylist()
    assert sorted((row["id"], row["reason"]) for row in rejected) == [
        ("fish/05.jpg", "not an image that Pillow can read"),
        ("notes.txt", "not an image: a .txt file"),
    ]


def same(one: pa.Table, other: pa.Table) -> bool:
    """Bit by bit; p_label is nan where the label is not known."""
    p, q = (table["p_label"].to_numpy() for table in (one, other))
    rest = [table.drop_columns(["p_label"]) for table in (one, other)]
    return rest[0].equals(rest[1]) and np.array_equal(p, q, equal_nan=True)


def spec(out: Path, uri: str, **more: object) -> EmbedSpec:
    return EmbedSpec(out=str(out), images=uri, classifier=CLASSIFIER, unit=5, batch=4, **more)  # type: ignore[arg-type]


def test_a_unit_has_the_numbers_of_a_plain_loop(tmp_path: Path, photos: str) -> None:
    run = Run.start(str(tmp_path / "run"), "embed", {})
    classes = {name: k for k, name in enumerate(load_classifier(CLASSIFIER).class_names)}
    collection = open_collection(photos)
    write_rejected(run, "listing", collection.rejected, "main")
    transform = load_classifier(CLASSIFIER).eval_transform
    embedder = Embedder(run, classes, "main", CLASSIFIER, "cpu", 4)
    parts = [
        ImageUnit("0", collection.part(slice(0, 7))),
        ImageUnit("1", collection.part(slice(7, 20))),
    ]
    assert [embedder(decode(part, transform)) for part in parts] == [6, 6]
    check(run, photos)
    embedded = read_embedded(run.table("images").read(), "main")
    assert embedded.texts[:1] == ["fish"]
    assert embedded.features.dtype == np.float32


def test_an_image_with_features_that_are_not_finite_is_named(tmp_path: Path, photos: str) -> None:
    run = Run.start(str(tmp_path / "run"), "embed", {})
    embedder = Embedder(run, {}, "main", CLASSIFIER, "cpu", 4)
    real, black = embedder.classifier.features, 0

    def features(images: torch.Tensor) -> torch.Tensor:
        return real(images) + torch.where(images.amax((1, 2, 3)) == black, torch.nan, 0.0)[:, None]

    embedder.classifier.features = features  # type: ignore[method-assign]
    Image.new("RGB", (80, 80)).save(Path(photos) / "fish" / "black.png")
    unit = ImageUnit("main-0", open_collection(photos).part(slice(0, 20)))
    assert embedder(decode(unit, embedder.classifier.eval_transform)) == 12
    assert "fish/black.png" not in run.table("images").read()["id"].to_pylist()
    reasons = {row["id"]: row["reason"] for row in run.table("rejected").read().to_pylist()}
    assert reasons["fish/black.png"] == "the classifier's features are not finite"
    assert "Pillow" in reasons["fish/05.jpg"]


def test_a_unit_whose_part_is_there_is_left_alone(tmp_path: Path, photos: str) -> None:
    run = Run.start(str(tmp_path / "run"), "embed", {})
    embedder = Embedder(run, {}, "main", CLASSIFIER, "cpu", 4)
    decoded = decode(
        ImageUnit("u", open_collection(photos).part(slice(0, 2))), EvalTransform(64, 64, "square")
    )
    embedder(decoded)
    part = tmp_path / "run" / "tables" / "images" / "u.parquet"
    before = part.stat().st_ino
    embedder(decoded)
    assert part.stat().st_ino == before


@pytest.mark.slow
def test_a_stream_and_a_pool_make_the_same_tables_and_do_what_is_missing(
    tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tables = {}
    with session():
        for name, stream_from in (("pool", 1000), ("stream", 13)):
            asked = spec(tmp_path / name, photos, stream_from=stream_from)
            run = Run.start(asked.out, "embed", asked.model_dump(mode="json"))
            embed(run, asked, asked.placement)
            check(run, photos)
            assert any("zebra" in warning for warning in run.record()["warnings"])
            tables[name] = run.table("images").read()
        parts = sorted((tmp_path / "stream" / "tables" / "images").iterdir())
        assert len(parts) == 3
        inodes = {part: part.stat().st_ino for part in parts}
        missing = pq.read_table(parts[1])
        parts[1].unlink()
        embed(run, asked, asked.placement)
        assert {part for part in parts if part.stat().st_ino != inodes[part]} <= {parts[1]}
        assert same(pq.read_table(parts[1]), missing)
    assert same(tables["pool"], tables["stream"])


def test_a_multi_label_head_has_probabilities_by_sigmoid(tmp_path: Path, photos: str) -> None:
    from whylens.classifiers.activation import SIGMOID, SOFTMAX

    run = Run.start(str(tmp_path / "run"), "embed", {})
    name = f"{CLASSIFIER}?probabilities=sigmoid"
    embedder = Embedder(run, {}, "main", name, "cpu", 4)
    unit = ImageUnit("u", open_collection(photos).part(slice(0, 4)))
    embedder(decode(unit, embedder.classifier.eval_transform))
    row = run.table("images").read().to_pylist()[0]
    logits = embedder.classifier.head(torch.tensor(row["features"]).float())
    assert row["top5_probabilities"] == pytest.approx(
        logits.sigmoid().sort(descending=True).values[:5].tolist(), abs=1e-2
    )
    assert "sigmoid" in SIGMOID.remark
    assert SOFTMAX.remark == ""

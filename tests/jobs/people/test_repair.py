"""`whylens spufix` on a run in whose collections a class comes with another's feature."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from whylens.classifiers import load_classifier
from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.jobs.findings import components as components_job
from whylens.jobs.findings.components import ComponentSettings
from whylens.jobs.findings.verdicts import judged_rows
from whylens.jobs.images import embed as embed_job
from whylens.jobs.images.embed import EmbedSpec
from whylens.jobs.people.repair import RepairSpec
from whylens.jobs.people.repair import run as repair_run
from whylens.runs import Run
from whylens.runs.lineage import Lineage


def embedded(folder: Path, classifier: str) -> Run:
    spec = EmbedSpec(
        out=str(folder),
        images="planted:linked?count=300&seed=7",
        second="planted:unlinked?count=600&seed=8",
        classifier=classifier,
    )
    run = Run.start(spec.out, "embed", spec.model_dump(mode="json"))
    embed_job.embed(run, spec, Placement())
    return run


@pytest.fixture(scope="module")
def source(ray: object, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = embedded(tmp_path_factory.mktemp("runs") / "biased", "planted:biased")
    components_job.components(run, Lineage(run), ComponentSettings(top=8), Placement())
    return run.folder


@pytest.fixture(scope="module")
def robust(ray: object, tmp_path_factory: pytest.TempPathFactory) -> str:
    return embedded(tmp_path_factory.mktemp("runs") / "robust", "planted:robust").folder


def test_a_refit_helps_mined_images_and_is_a_classifier(source: str, tmp_path: Path) -> None:
    done = repair_run(RepairSpec(source=source, out=str(tmp_path / "fix.safetensors")))
    assert done.after["mined"] > done.before["mined"] + 0.1
    assert done.after["images"] > done.before["images"] - 0.03
    loaded = load_classifier(done.name)
    assert loaded.base == "planted:biased"
    found = judged_rows(Lineage(Run.open(source)))
    suspicious = {(r["class_index"], r["component"]) for r in found if r["suspicious"]}
    assert {(k, c) for k, chosen in done.spurious.items() for c in chosen} == suspicious


def test_the_formula_takes_what_alpha_adds(source: str, tmp_path: Path) -> None:
    out = str(tmp_path / "fix.safetensors")
    done = repair_run(RepairSpec(source=source, out=out, method="formula"))
    loaded, base = load_classifier(done.name), load_classifier("planted:biased")
    rows = np.concatenate([np.asarray(v) for v in done.spurious.values()])
    assert loaded.feature_size == base.feature_size + len(rows)


def test_what_was_found_on_one_repairs_another(source: str, robust: str, tmp_path: Path) -> None:
    for method in ("refit", "formula"):
        out = str(tmp_path / f"{method}.safetensors")
        done = repair_run(RepairSpec(source=source, onto=robust, out=out, method=method))
        assert done.base == "planted:robust"
        assert done.after["images"] > done.before["images"] - 0.05


def test_nothing_is_overwritten_and_what_is_missing_is_said(
    source: str, robust: str, tmp_path: Path
) -> None:
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        repair_run(RepairSpec(source=source, out=str(there)))
    assert there.read_bytes() == b"mine"
    out = str(tmp_path / "fix.safetensors")
    with pytest.raises(UsageError, match="must end in"):
        repair_run(RepairSpec(source=source, out=str(tmp_path / "fix.pt")))
    with pytest.raises(UsageError, match="labelled spurious: see whylens labels"):
        repair_run(RepairSpec(source=source, out=out, by="labels"))
    with pytest.raises(UsageError, match="components"):
        repair_run(RepairSpec(source=robust, out=out))
    few = Run.start(str(tmp_path / "few"), "embed", {"classifier": "planted:robust"})
    table = Run.open(robust).table("images").read()
    few.table("images").write("0", pa.concat_tables([table.slice(0, 10), table.slice(890)]))
    with pytest.raises(UsageError, match="of the mined images"):
        repair_run(RepairSpec(source=source, onto=few.folder, out=out))

"""What a submitted job takes along: the files of this machine that its spec names, no others."""

import re
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from whylens.cluster import baggage, versions
from whylens.cluster.versions import Version, compare
from whylens.errors import UsageError
from whylens.jobs.places import PLACES, sent
from whylens.jobs.registry import jobs
from whylens.runs import Run

# Words of a setting's description that say that it may be a path.
WORDS = re.compile(r"\b(classifiers?|folders?|file|collection|validation images|by name)\b", re.I)
# Settings that are described so and name no place.
OTHERS = {
    *("out", "classes", "target", "targets", "prompts", "prompt_template", "spurious_column"),
    *("attributes", "templates"),
}


def text_settings(model: type[BaseModel]) -> dict[str, str]:
    """All settings of words, however deep, and what they are."""
    found = {}
    for name, info in model.model_fields.items():
        if "str" in str(info.annotation):
            found[name] = info.description or ""
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= text_settings(kind)
    return found


@pytest.mark.slow  # it imports every job
def test_every_setting_that_may_be_a_path_is_known():
    settings = {}
    for listed in jobs().values():
        settings |= text_settings(listed.job().spec)
    described = {name for name, text in settings.items() if WORDS.search(text)}
    assert described - PLACES - OTHERS == set()
    assert set(settings) >= PLACES


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files, where the command is started."""
    monkeypatch.chdir(tmp_path)
    for name in ("robust.pt", "names.txt", "clip.pt", "photos/cat/1.png", "dog", "runs/trees.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"0" * 1000)
    return tmp_path


def test_paths_are_found_within_names(here):
    travelling, there = sent(
        {
            "images": "photos",
            "classifier": "checkpoint:robust.pt?arch=resnet50&classes=names.txt",
            "against": ["open_clip:ViT-B-16/clip.pt", "timm:resnet50.a1_in1k", "planted:biased"],
            "sampler": "owner/pipeline?dtype=bfloat16",
            "second": "s3://bucket/photos",
            "counterfactuals": {"classes": ["dog"], "tree": "./runs/trees.json"},
            "source": "/shared/run",
            "out": "/shared/out",
        }
    )
    assert travelling == {
        "photos": "images",
        "robust.pt": "classifier",
        "names.txt": "classifier",
        "clip.pt": "against",
        "runs/trees.json": "counterfactuals.tree",
    }
    assert [(place.setting, place.path) for place in there] == [("source", "/shared/run")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classifier": "checkpoint:lost?arch=resnet50"}, "classifier names lost, which is not in"),
        ({"tree": "lost.json"}, "tree names lost.json, which is not in"),
        ({"images": "../"}, "images names ../, which is not below"),
        ({"images": "."}, "images names ., which is not below"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(here, settings, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        sent(settings)


def test_what_a_run_was_made_with_travels_too(here):
    Run.start("runs/embedded", "embed", {"classifier": "checkpoint:robust.pt?arch=resnet50"})
    travelling, _ = sent({"source": "runs/embedded"})
    assert travelling == {"runs/embedded": "source", "robust.pt": "source (its spec).classifier"}


def test_a_repaired_head_takes_its_base_along(here):
    import torch
    from safetensors.torch import save_file

    about = '{"base": "checkpoint:robust.pt?arch=resnet50", "fingerprint": "0"}'
    save_file({"bias": torch.zeros(1)}, "repaired.safetensors", {"whylens": about})
    travelling, _ = sent({"classifier": "spufix:repaired.safetensors"})
    assert set(travelling) == {"repaired.safetensors", "robust.pt"}


def test_too_much_is_refused_with_the_largest_by_name(here, monkeypatch):
    monkeypatch.setattr(baggage, "LIMIT", 1500)
    assert baggage.check_size({"robust.pt": "classifier"}) == 1000
    with pytest.raises(UsageError, match=r"photos \(0 MB, images\)"):
        baggage.check_size({"robust.pt": "classifier", "photos": "images"})


def test_the_zip_holds_spec_versions_and_files_under_their_names(here):
    Path("spec.yaml").write_text("images: photos\n")
    target = baggage.pack(Path("spec.yaml"), {"photos": "images"}, here / "working.zip")
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == [baggage.VERSIONS, "photos/cat/1.png", "spec.yaml"]
        (here / "unpacked").mkdir()
        archive.extractall(here / "unpacked")
    # The same machine: nothing differs, whatever else is installed.
    assert versions.main(str(here / "unpacked" / baggage.VERSIONS)) == 0


def test_versions_are_compared_by_what_whylens_needs():
    sender = {
        "python": Version("3.11.7", ">=3.11"),
        "torch": Version("2.14.1", ">=2.14.1,<2.15"),
        "ray": Version("2.60.0", ">=2.60,<2.61"),
        "timm": Version("1.0.31", ">=1.0.31,<1.1"),
        "rich": Version("14.0"),
        "whylens": Version("0.2.0"),
    }
    there = {name: version for name, (version, _) in sender.items()}
    assert compare(sender, there) == ([], [])
    changed = {"torch": "2.13.0", "ray": "2.60.1", "timm": None, "rich": "13.0", "whylens": None}
    differs, unfit = compare(sender, there | changed)
    assert differs == [
        "ray is 2.60.0 where the job was submitted, 2.60.1 on the cluster",
        "whylens is 0.2.0 where the job was submitted, none on the cluster; the submitted one is "
        "run",
    ]
    assert unfit == [
        "torch is 2.14.1 where the job was submitted, 2.13.0 on the cluster; whylens needs "
        ">=2.14.1,<2.15",
        "timm is 1.0.31 where the job was submitted, and not installed on the cluster",
    ]

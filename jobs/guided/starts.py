"""The starts stage: which prompt shows a finding's feature, as the classifier itself says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from whylens.jobs.columns import columns, columns_of
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.prompts import (
    FEATURE_TEMPLATES,
    PLAIN_TEMPLATE,
    FeatureTemplates,
    PromptTemplate,
    names,
    prompts_of,
)
from whylens.jobs.guided.worker import GuidedWorker
from whylens.jobs.images.embedded import read_captions
from whylens.jobs.spec import StageSettings
from whylens.jobs.stage import drop_others, mark, work_through
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.guidance.settings import ChainSettings
from whylens.runs import Run

STARTS = "starts"
SCHEMA = pa.schema(
    [
        *columns(pa.int32(), "class_index", "component"),
        ("prompt", pa.string()),
        *columns(pa.float32(), "alpha", "p_class"),
        ("chosen", pa.bool_()),
    ]
)
# Prompts come plainest first: among those that say the class, a later one must say it clearly more.
NEARLY_BEST = 0.9
SAYS = 0.5
Key = tuple[int, int]
"""Class index and component of a finding."""


class StartSettings(StageSettings):
    """How the prompt is chosen from which a finding's images start."""

    feature_templates: FeatureTemplates = FEATURE_TEMPLATES
    prompt_template: PromptTemplate = PLAIN_TEMPLATE
    captions: int = Field(
        3,
        ge=0,
        description="Captions of mined images that are tried too, those that name the feature but "
        "not the class.",
    )
    images: int = Field(3, ge=1, description="Plain images a prompt, to choose by.")
    seed: int = Field(0, ge=0, description="Seed of a prompt's first image; the next adds one.")


@dataclass(frozen=True)
class StartUnit:
    """A finding and the prompts that may show it; alpha = <direction, phi> - offset."""

    name: str
    class_index: int
    component: int
    prompts: tuple[str, ...]
    direction: np.ndarray
    offset: float


def plan(
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[Key, tuple[np.ndarray, float]],
    captions: Mapping[str, str],
    settings: StartSettings,
) -> list[StartUnit]:
    """One unit a finding; `captions` are by image id."""
    units = []
    for row in findings:
        k, component = row["class_index"], row["component"]
        prompts = prompts_of(row, settings.feature_templates, settings.prompt_template)
        prompts += telling_captions(row, captions)[: settings.captions]
        distinct, arrow = tuple(dict.fromkeys(prompts)), directions[k, component]
        name = f"class-{k:06d}-component-{component:05d}-{mark(distinct, *arrow)}"
        units.append(StartUnit(name, k, component, distinct, *arrow))
    return units


def telling_captions(finding: Mapping[str, Any], captions: Mapping[str, str]) -> list[str]:
    """Captions of the finding's mined images that name its feature, not its class; common first."""
    words = finding.get("guess") or []
    if not words:
        return []
    told = [captions.get(image_id, "") for image_id in finding.get("mined_ids") or ()]
    counts = Counter(
        text for text in told if names(text, words[0]) and not names(text, finding["class_name"])
    )
    return [text for text, _ in counts.most_common()]


def starts(
    run: Run,
    lineage: Lineage,
    settings: StartSettings,
    chain: ChainSettings,
    models: Models,
    findings: Sequence[Mapping[str, Any]],
    directions: Mapping[Key, tuple[np.ndarray, float]],
) -> dict[Key, str]:
    """The stage: the prompt of each finding, by class and component.

    Of plain images of each prompt, those that the classifier most calls the class decide, the
    plainer prompt where two that say it are nearly equal. No prompt names the class where the
    feature has a name, so it is the feature that speaks. (DiG-IN starts its neurons from the word
    that activates them most.)
    """
    if not findings:
        return {}
    mined = {image_id for row in findings for image_id in row.get("mined_ids") or ()}
    units = plan(findings, directions, read_captions(lineage, mined), settings)
    drop_others(run, units, STARTS)
    alone = replace(models.of_stage(settings.placement), against=())
    arguments = (run, lineage, alone, settings, chain)
    work_through(run, STARTS, units, Chooser, arguments, models.placement)
    rows = run.table(STARTS).read().to_pylist()
    return {(r["class_index"], r["component"]): r["prompt"] for r in rows if r["chosen"]}


class Chooser(GuidedWorker[StartSettings]):
    """A worker: tries one finding's prompts, writes its part."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        models: Models,
        settings: StartSettings,
        chain: ChainSettings,
    ) -> None:
        super().__init__(run, lineage, models, settings)
        self.chain = chain

    def __call__(self, unit: StartUnit) -> int:
        """Try the unit's prompts; how many."""
        scores = [self.score(unit, prompt) for prompt in unit.prompts]
        p_class = np.array([p for _, p in scores])
        best = p_class.max()
        chosen = int(np.flatnonzero(p_class >= max(NEARLY_BEST * best, min(best, SAYS)))[0])
        rows = [
            {
                **columns_of(unit, SCHEMA),
                "prompt": prompt,
                "alpha": alpha,
                "p_class": p,
                "chosen": place == chosen,
            }
            for place, (prompt, (alpha, p)) in enumerate(zip(unit.prompts, scores, strict=True))
        ]
        return self.write(STARTS, unit.name, SCHEMA, rows)

    def score(self, unit: StartUnit, prompt: str) -> tuple[float, float]:
        """Mean alpha and mean probability of the class over plain images of a prompt."""
        seeds = [self.spec.seed + place for place in range(self.spec.images)]
        pictures = self.plain([prompt] * len(seeds), seeds, self.chain)
        features = np.stack([picture.features(self.classifier) for picture in pictures])
        alphas = features @ unit.direction - unit.offset
        p = [picture.probability(self.classifier, unit.class_index) for picture in pictures]
        return float(alphas.mean()), float(np.mean(p))

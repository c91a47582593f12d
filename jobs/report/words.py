"""A run's numbers as sentences: the words of the report and the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from whylens.jobs.report.data import (
    Counterfactual,
    Disagreement,
    Exemplar,
    Finding,
    Generated,
    Label,
    Neuron,
    Opinion,
    RunData,
)
from whylens.jobs.words import amount, article, listed, percent, times

# From this share of images without the object on, the feature alone decides.
RELIES_SHARE = 0.5
# From this mean class probability without the object on, the feature pulls.
PULLS_MEAN_P = 0.1


# Columns of the table findings that have a sentence of their own; others are shown as numbers.
EVIDENCE: dict[str, Callable[[str, float], str]] = {
    "lift": lambda name, value: (
        f"That is {times(value)} what images without {article(name)} get on average."
    ),
    "logit_share": lambda name, value: (
        f"It carries {percent(value)} of what sets {name} images' score apart from others'."
    ),
    "variance_share": lambda name, value: (
        f"It accounts for {percent(value)} of the variance of the features weighted for {name}."
    ),
    "heat_on_object": lambda name, value: (
        f"On {name} images that show it most, {percent(value)} of its heat lies on the object."
    ),
}


class Verdict(Enum):
    """How far a feature goes without the object: shown as a label and explained in the method."""

    RELIES = "enough on its own"
    PULLS = "pulls, rarely enough alone"
    WEAK = "not confirmed"
    UNCHECKED = "not checked"


def verdict(finding: Finding) -> Verdict:
    """What the images without the object say about a finding."""
    share, mean = finding.sufficiency_share, finding.sufficiency_mean_p
    if share is None and mean is None:
        return Verdict.UNCHECKED
    if (share or 0.0) >= RELIES_SHARE:
        return Verdict.RELIES
    if (share or 0.0) >= PULLS_MEAN_P or (mean or 0.0) >= PULLS_MEAN_P:
        return Verdict.PULLS
    return Verdict.WEAK


def headline(data: RunData) -> str:
    """The report's one sentence."""
    if data.neurons and not data.findings:
        return f"What {amount(len(data.neurons), 'neuron')} of the classifier {_respond(data)} to"
    if "findings" not in data.stages and not data.findings:
        return "No findings yet: the search for spurious features has not finished"
    relying = _classes(data.findings, Verdict.RELIES)
    pulled = [name for name in _classes(data.findings, Verdict.PULLS) if name not in relying]
    total = len(data.classes)
    of = f" of {total:,}" if total else ""
    if relying:
        verb = "relies" if len(relying) == 1 else "rely"
        noun = "class" if (total or len(relying)) == 1 else "classes"
        return f"{len(relying)}{of} {noun} {verb} on something that is not the object"
    if pulled:
        noun = "class" if (total or len(pulled)) == 1 else "classes"
        verb = "is" if len(pulled) == 1 else "are"
        return f"{len(pulled)}{of} {noun} {verb} swayed by something that is not the object"
    if any(verdict(finding) is Verdict.UNCHECKED for finding in data.findings):
        return f"{amount(len(data.findings), 'suspicious feature')}, not yet checked"
    return "No class was found to rely on something that is not the object"


def summary(data: RunData) -> list[str]:
    """What was found, in a few sentences."""
    sentences = []
    relying = [f for f in data.findings if verdict(f) is Verdict.RELIES]
    for finding in relying[:3]:
        thing = f"“{finding.guess[0]}”" if finding.guess else "one feature"
        sentences.append(
            f"{percent(finding.sufficiency_share)} of the images that show {thing} but no "
            f"{finding.class_name} are still called {finding.class_name}."
        )
    pulled = _classes(data.findings, Verdict.PULLS)
    strong = _classes(data.findings, Verdict.RELIES)
    rest = [name for name in pulled if name not in strong]
    if strong and rest:
        subject = "One more class" if len(rest) == 1 else f"{len(rest)} more classes"
        verb = "is" if len(rest) == 1 else "are"
        sentences.append(
            f"{subject} ({listed(rest)}) {verb} swayed by such a feature, "
            "which alone is rarely enough."
        )
    if any(finding.truth is not None for finding in data.findings):
        sentences.append(f"This is a planted world, so the truth is known: {truth_known(data)}.")
    done = [c for c in data.counterfactuals if c.after]
    if done:
        sentences.append(counterfactual_summary(data.counterfactuals))
    return sentences


def telling(data: RunData, most: int = 6) -> list[tuple[str, Exemplar]]:
    """The images without the object that are surest called the class: class name and image.

    Taken in turn from the findings that are enough on their own, so that each is seen.
    """
    queues = []
    for finding in data.findings:
        if verdict(finding) is Verdict.RELIES:
            fooled = [e for e in finding.mined if (e.p_class or 0) >= 0.5 and e.thumb]
            fooled.sort(key=lambda e: -(e.p_class or 0))
            queues.append([(finding.class_name, e) for e in fooled])
    turns = [queue[turn] for turn in range(most) for queue in queues if turn < len(queue)]
    return turns[:most] if len(turns) >= 3 else []


def evidence(finding: Finding) -> list[str]:
    """Why a finding is suspicious, in plain language, strongest first."""
    name = finding.class_name
    sentences = []
    if finding.sufficiency_share is not None:
        mean = ""
        if finding.sufficiency_mean_p is not None:
            mean = f" (mean probability {percent(finding.sufficiency_mean_p)})"
        sentences.append(
            f"Of the images without {article(name)} in which this feature is strongest, "
            f"{percent(finding.sufficiency_share)} are classified as {name}{mean}."
        )
    elif finding.sufficiency_mean_p is not None:
        sentences.append(
            f"Images without {article(name)} in which this feature is strongest get a mean "
            f"{name} probability of {percent(finding.sufficiency_mean_p)}."
        )
    else:
        sentences.append(
            f"No images without {article(name)} were searched, so whether the feature alone is "
            "enough is open."
        )
    made = [g for g in finding.generated if g.p_class is not None]
    started = [g for g in made if g.p_start is not None]
    if started:
        before = sum(g.p_start or 0.0 for g in started) / len(started)
        after = sum(g.p_class or 0.0 for g in started) / len(started)
        if percent(before) == percent(after):
            effect = f"left the mean {name} probability at {percent(after)}"
        else:
            effect = f"moved the mean {name} probability from {percent(before)} to {percent(after)}"
        sentences.append(
            f"Raising this feature in {amount(len(started), 'generated image')} {effect}."
        )
    for column, sentence in EVIDENCE.items():
        if column in finding.evidence:
            sentences.append(sentence(name, finding.evidence[column]))
    return sentences


def other_evidence(finding: Finding) -> dict[str, str]:
    """The evidence that has no sentence, as name and number."""
    return {
        column.replace("_", " "): f"{value:.3g}"
        for column, value in finding.evidence.items()
        if column not in EVIDENCE
    }


def truth_label(finding: Finding) -> str:
    """The badge of a finding in a planted world."""
    if finding.truth:
        return f"Planted: {finding.truth}"
    return "Not planted: a false alarm" if finding.suspicious else "Not planted, not suspected"


def truth_known(data: RunData) -> str:
    """The findings against the planted links, as a clause."""
    from whylens.jobs.findings.truth import planted_truth

    names = (str(data.spec.get(key) or "") for key in ("images", "classifier"))
    links = planted_truth(*names) or {}
    alarms = [finding for finding in data.findings if finding.suspicious]
    false = sum(not finding.truth for finding in alarms)
    alarm = f"with {amount(false, 'false alarm') if false else 'no false alarm'}"
    if not links:
        return f"no link is there to be found, and the search ends {alarm}"
    found = len({finding.class_name for finding in alarms if finding.truth})
    every = f"all {len(links)}" if found == len(links) else f"{found} of the {len(links)}"
    return f"{every} links that the training images were built with were found, {alarm}"


def said(label: Label) -> str:
    """A person's label as a sentence."""
    note = f": “{label.note}”" if label.note else ""
    return f"{label.who} called it {label.label} on {label.when[:10]}{note}."


def counterfactual_summary(rows: Sequence[Counterfactual]) -> str:
    """How many images could be turned, and whether the second classifier agrees."""
    flipped = [row for row in rows if row.flipped]
    text = (
        f"In {len(flipped)} of {amount(len(rows), 'image')} a small change made the classifier "
        "say the target class"
    )
    seconds = [
        (row.against["target_after"], row.against["source_after"])
        for row in flipped
        if {"target_after", "source_after"} <= set(row.against)
    ]
    if seconds:
        agreed = sum(target > source for target, source in seconds)
        text += f"; the second classifier sees the change too in {agreed} of {len(seconds)}"
    return text + "."


def disagreement_summary(rows: Sequence[Disagreement]) -> str:
    """How far the two classifiers could be pulled apart."""
    gaps = [row.p_a - row.p_b for row in rows if row.p_a is not None and row.p_b is not None]
    if not gaps:
        return ""
    starts = [
        row.p_a_start - row.p_b_start
        for row in rows
        if row.p_a_start is not None and row.p_b_start is not None
    ]
    gap = 100 * sum(gaps) / len(gaps)
    start = f" (plain images: {100 * sum(starts) / len(starts):.0f} points)" if starts else ""
    return (
        f"In {amount(len(gaps), 'generated image')} the two classifiers' probabilities differ by "
        f"{gap:.0f} percentage points on average{start}."
    )


def _listed_names(value: Any) -> str | None:
    """One name, or several."""
    return ", ".join(value) if isinstance(value, list) else value


def _respond(data: RunData) -> str:
    return "responds" if len(data.neurons) == 1 else "respond"


def neuron_summary(neuron: Neuron) -> list[str]:
    """What was seen of a neuron, in sentences."""
    sentences = []
    if neuron.share is not None:
        where = (
            f"on images that show finding {neuron.rank}"
            if neuron.rank is not None
            else "where it is strong"
        )
        sentences.append(
            f"It adds {neuron.share:.2f} to the {neuron.class_name} score {where}, above the mean "
            "of all images."
        )
    for kind, verb in (("down", "Lowering"), ("up", "Raising")):
        seen = [
            opinion
            for image in neuron.images
            if image.kind == kind
            for opinion in image.way.opinions[:1]
            if opinion.before is not None and opinion.after is not None
        ]
        if seen:
            before = sum(one.before or 0.0 for one in seen) / len(seen)
            after = sum(one.after or 0.0 for one in seen) / len(seen)
            sentences.append(
                f"{verb} it in {amount(len(seen), 'real image')} moved the mean "
                f"{neuron.class_name} probability from {percent(before)} to {percent(after)}."
            )
    return sentences


def others(opinions: Sequence[Opinion]) -> list[Opinion]:
    """What classifiers other than the explained one, which comes first, say."""
    return [one for one in opinions if one.classifier != opinions[0].classifier]


def facts(data: RunData) -> list[tuple[str, str]]:
    """What was investigated: label and value, for the head of the report."""
    spec, manifest = data.spec, data.manifest
    second = _collection(data, spec.get("second"), "second")
    rows = [
        ("Classifier", spec.get("classifier")),
        ("Other classifiers", _listed_names(spec.get("against"))),
        ("Images", _collection(data, spec.get("images"), "main")),
        ("Searched for the feature alone", second),
        ("Sampler", spec.get("sampler")),
        ("Begun", str(manifest.get("created", ""))[:10]),
        ("Seeds", _seeds(spec)),
        ("State", manifest.get("state") if manifest.get("state") != "finished" else None),
    ]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def _seeds(spec: Mapping[str, Any]) -> str | None:
    """The seeds of the run's stages: one where all have the same, else each with its stage."""
    found = {
        stage: settings["seed"]
        for stage, settings in spec.items()
        if isinstance(settings, Mapping) and "seed" in settings
    }
    if len(set(found.values())) == 1:
        return str(next(iter(found.values())))
    return ", ".join(f"{stage} {seed}" for stage, seed in found.items()) or None


def _collection(data: RunData, uri: Any, name: str) -> str | None:
    if uri in (None, ""):
        return None
    count = data.images.get(name)
    return f"{uri} ({amount(count, 'image')})" if count else str(uri)


def _classes(findings: Sequence[Finding], wanted: Verdict) -> list[str]:
    return list(dict.fromkeys(f.class_name for f in findings if verdict(f) is wanted))


def generated_alt(name: str, row: Generated) -> str:
    """The alternative text of a generated image."""
    return (
        f"Generated from “{row.prompt}”, feature raised; {name} {percent(row.p_start)} before, "
        f"{percent(row.p_class)} after"
    )

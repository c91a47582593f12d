"""Findings: what is said of them, and their part of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from whylens.jobs.report.part import Limit, Pair, Part, RunData, Use
from whylens.jobs.report.parts.finding import (
    RELIES_SHARE,
    Exemplar,
    Finding,
    Generated,
    Label,
    Verdict,
    load_findings,
    verdict,
)
from whylens.jobs.truth import planted_truth
from whylens.jobs.words import amount, article, listed, percent, plain_name, times

# Columns of the table findings that have a sentence of their own; others are shown as numbers.
EVIDENCE: dict[str, Callable[[str, float], str]] = {
    "lift": lambda name, value: (
        f"Where it is strongest, images without {article(name)} get {times(value)} the {name} "
        "probability that they get on average."
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
    "deletion": lambda name, value: (
        f"As the pixels that show it most are taken out first, the mean {name} probability on the "
        f"way is {percent(value)} (deletion: low where the heat lies on what counts)."
    ),
    "random_deletion": lambda name, value: (
        f"Taken out in random patches, it is {percent(value)}: what a heat map gets that knows "
        "nothing."
    ),
    "insertion": lambda name, value: (
        f"As the pixels that show it most are put first into a blurred image, it is "
        f"{percent(value)} (insertion: high where the heat lies on what counts)."
    ),
    "random_insertion": lambda name, value: (
        f"Put into it in random patches, it is {percent(value)}."
    ),
}


def headline(data: RunData) -> str:
    """The run in one sentence."""
    findings = data[FINDINGS]
    if "findings" not in data.stages and not findings:
        return "No findings yet: the search for spurious features has not finished"
    relying = _classes(findings, Verdict.RELIES)
    pulled = [name for name in _classes(findings, Verdict.PULLS) if name not in relying]
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
    if any(verdict(finding) is Verdict.UNCHECKED for finding in findings):
        return f"{amount(len(findings), 'suspicious feature')}, not yet checked"
    return "No class was found to rely on something that is not the object"


def summary(data: RunData) -> list[str]:
    """What was found, in a few sentences."""
    findings = data[FINDINGS]
    sentences = []
    relying = [f for f in findings if verdict(f) is Verdict.RELIES]
    for finding in relying[:3]:
        thing = f"“{finding.guess[0]}”" if finding.guess else "one feature"
        sentences.append(
            f"{percent(finding.sufficiency_share)} of the images that show {thing} but no "
            f"{finding.class_name} are still called {finding.class_name}."
        )
    pulled = _classes(findings, Verdict.PULLS)
    strong = _classes(findings, Verdict.RELIES)
    rest = [name for name in pulled if name not in strong]
    if strong and rest:
        subject = "One more class" if len(rest) == 1 else f"{len(rest)} more classes"
        verb = "is" if len(rest) == 1 else "are"
        sentences.append(
            f"{subject} ({listed(rest)}) {verb} swayed by such a feature, "
            "which alone is rarely enough."
        )
    if any(finding.truth is not None for finding in findings):
        sentences.append(f"This is a planted world, so the truth is known: {truth_known(data)}.")
    return sentences


def telling(findings: Sequence[Finding], most: int = 6) -> list[tuple[str, Exemplar]]:
    """The images without the object that are surest called the class: class name and image.

    Taken in turn from the findings that are enough on their own, so that each is seen.
    """
    queues = []
    for finding in findings:
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
    sentences += reason(finding)
    for column, sentence in EVIDENCE.items():
        if column in finding.evidence:
            sentences.append(sentence(name, finding.evidence[column]))
    return sentences


def reason(finding: Finding) -> list[str]:
    """Why a finding has its verdict: the interval, beside what such images get anyway."""
    if finding.strata_p is None or finding.expected_p is None or finding.asked_p is None:
        return []
    name, low, high = finding.class_name, finding.strata_p_low, finding.strata_p_high
    if low is None or high is None:
        return [
            "All those images are of one other class, which may just look like "
            f"{article(name)}: there is no telling."
        ]
    over = (
        f"Averaged over {amount(finding.strata or 0, 'other class', 'other classes')}"
        if (finding.strata or 0) > 1
        else "On average"
    )
    sentences = [
        f"{over}, such images get {article(name)} probability of {percent(finding.strata_p)} "
        f"(90% interval: {percent(max(low, 0.0))} to {percent(min(high, 1.0))}). Images of the "
        f"same classes in which another feature of {name} is strong get "
        f"{percent(finding.expected_p)} anyway, and from {percent(finding.asked_p)} on it would "
        "count."
    ]
    if finding.suspicious:
        ending = "The interval lies above that: hence the verdict."
    elif low > finding.asked_p:
        ending = (
            "The interval lies above that, but one of the classes alone may carry it, or, of so "
            "many features that were looked at, it does so by chance: hence no verdict."
        )
    elif high < finding.asked_p:
        ending = "The interval lies below that: hence no verdict."
    else:
        ending = "The interval reaches below that: hence no verdict."
    return [*sentences, ending]


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
    names = (str(data.spec.get(key) or "") for key in ("images", "classifier"))
    links = planted_truth(*names) or {}
    alarms = [finding for finding in data[FINDINGS] if finding.suspicious]
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


def generated_alt(name: str, row: Generated) -> str:
    """The alternative text of a generated image."""
    return (
        f"Generated from “{row.prompt}”, feature raised; {name} {percent(row.p_start)} before, "
        f"{percent(row.p_class)} after"
    )


def _classes(findings: Sequence[Finding], wanted: Verdict) -> list[str]:
    return list(dict.fromkeys(f.class_name for f in findings if verdict(f) is wanted))


def _pairs(findings: Sequence[Finding]) -> Iterable[Pair]:
    for finding in findings:
        for one in sorted(finding.generated, key=lambda one: -(one.p_class or 0.0)):
            if one.start_image and one.image and (one.alpha or 0.0) > (one.alpha_start or 0.0):
                word = f": {plain_name(finding.guess[0])}" if finding.guess else ""
                title = f"{plain_name(finding.class_name)}{word}"
                change = f"p {percent(one.p_start)} → {percent(one.p_class)}"
                yield Pair(title, one.start_image, one.image, change)


def _empty(data: RunData) -> str:
    if {"findings", "components"} & data.stages:
        return (
            "No component of any class looked suspicious. That is a result: with these images, "
            "nothing but the objects was found to drive the classes."
        )
    return "The search for spurious features did not run or has not finished."


FINDINGS = Part(
    name="findings",
    title="Findings",
    tables=(
        "components", "exemplars", "mined", "findings", "visualisations", "generated", "labels",
    ),
    read=load_findings,
    place=10,
    always=True,
    empty=_empty,
    headline=headline,
    summary=summary,
    limits=(
        Limit("findings", 30, "Show this many findings in detail."),
        Limit("exemplars", 6, "Show this many images in each strip of a finding.", least=1),
    ),
    template="findings.html.j2",
    words={
        "Verdict": Verdict,
        "RELIES_SHARE": RELIES_SHARE,
        "article": article,
        "verdict": verdict,
        "evidence": evidence,
        "other_evidence": other_evidence,
        "truth_label": truth_label,
        "said": said,
        "generated_alt": generated_alt,
        "telling": telling,
    },
    use=Use("Components", "the spurious feature alone\nraises the class", _pairs, place=20),
)  # fmt: skip

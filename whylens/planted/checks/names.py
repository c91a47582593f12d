"""`whylens planted check --names`: does the planted CLIP-like model name the planted features?"""

from pathlib import Path
from typing import Any

import numpy as np

from whylens.classifiers import load_classifier
from whylens.classifiers.zero_shot import ZeroShotClassifier
from whylens.neural_pca import judge_classes
from whylens.neural_pca.naming import names
from whylens.planted.checks.confirm import features_of
from whylens.planted.checks.discovery import MINED, TOP
from whylens.planted.drawing.data import draw_many
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS

DRAWINGS = 3_000
# How captions of the planted world speak of an object or a background, and of a companion.
PLAIN = ("a photo of {word}", "a photo of a {word}")
BESIDE = tuple(f"a photo of {background} with a {{word}}" for background in BACKGROUNDS)
WORDS = (*OBJECTS, *BACKGROUNDS, *COMPANIONS)


def check_names(work: Path) -> dict[str, Any]:
    """Name what the biased classifier's components respond to; one flat record.

    named: links whose class's most suspicious component is named first by the planted feature, of
    the words for all objects, backgrounds and companions; the images are those mined for it, beside
    all of the collection.
    """
    main = draw_many("linked", DRAWINGS, 901, folder=work / "data")
    second = draw_many("unlinked", DRAWINGS, 902, folder=work / "data")
    classifier, clip = load_classifier("planted:biased"), load_classifier("planted:clip")
    assert isinstance(clip, ZeroShotClassifier)
    found = judge_classes(
        classifier.head.arrays(),
        (features_of("biased", main, work), main.objects),
        (features_of("biased", second, work), second.objects),
        range(len(OBJECTS)),
        top=TOP,
        mined=MINED,
    )
    pictures = features_of("clip", second, work)
    texts = np.stack(
        [
            clip.embed_texts([one.replace("{word}", word) for one in templates]).mean(0).numpy()
            for word in WORDS
            for templates in [BESIDE if word in COMPANIONS else PLAIN]
        ]
    )
    rows, right = [], 0
    for link in LINKS:
        judged = found[OBJECTS.index(link.object)]
        best = int(np.argmax(judged.evidence.suspicion))
        mined = judged.mined.rows[best][judged.mined.predicted[best]].astype(int)
        said = names(pictures[mined], pictures, texts, WORDS) if len(mined) else []
        right += bool(said) and said[0][0] == link.feature
        rows.append(
            {
                "class": link.object,
                "feature": link.feature,
                "images": len(mined),
                "names": [[word, round(score, 4)] for word, score in said],
            }
        )
    return {"named": right, "links": len(LINKS), "by_link": rows}

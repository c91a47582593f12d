"""`whylens planted check --names`: does the planted CLIP-like model name the planted features?"""

import itertools
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
from whylens.planted.drawing.world import BACKGROUNDS, COMPANIONS, LINKS, OBJECTS, Scene

DRAWINGS = 3_000
WORDS = (*OBJECTS, *BACKGROUNDS, *COMPANIONS)
# Texts that the model reads together.
BATCH = 128


def check_names(work: Path) -> dict[str, Any]:
    """Name what the biased classifier's components respond to; one flat record.

    named: links whose class's most suspicious component is named first by the planted feature, of
    the words for all objects, backgrounds and companions, read in all captions of the world; the
    images are those mined for it, beside all of the collection.
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
    captions = [
        Scene(*parts, ()).caption
        for parts in itertools.product((*OBJECTS, None), BACKGROUNDS, (*COMPANIONS, None))
    ]
    read = np.concatenate(
        [
            clip.embed_texts(captions[start : start + BATCH]).numpy()
            for start in range(0, len(captions), BATCH)
        ]
    )
    # A word is what all captions with it have in common.
    texts = np.stack([read[[word in text.split() for text in captions]].mean(0) for word in WORDS])
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

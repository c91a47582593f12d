"""`whylens demo`: an investigation of the biased planted classifier, small enough for a laptop."""

from typing import Any


def settings(out: str) -> dict[str, Any]:
    """The demo's spec for `investigate`."""
    # The planted sampler knows a companion beside a background only.
    prompts = ["a photo of {feature}", "a photo of snow with a {feature}"]
    guidance = {"chain": {"steps": 10}, "optimiser": {"steps": 12}, "views": {"cutouts": 3}}
    return {
        "out": out,
        "images": "planted:linked?count=3000&seed=7",
        "second": "planted:unlinked?count=3000&seed=8",
        "classifier": "planted:biased",
        "against": "planted:balanced",
        "sampler": "planted",
        "exemplars": {"at_least": 0},
        "starts": {"feature_templates": prompts},
        "generate": {"findings": 8, "images": 3, "batch": 6, "guidance": guidance},
        "counterfactuals": {"images": 8, "batch": 4, "guidance": guidance},
        "disagreements": {"most_classes": 8, "images": 1, "batch": 4, "guidance": guidance},
    }

"""`whylens demo`: an investigation of the biased planted classifier, small enough for a laptop."""

from typing import Any

HELP = "Investigate the biased planted classifier; some minutes on a laptop."
# The planted sampler knows a companion beside a background only.
PROMPTS = ["a photo of {feature}", "a photo of snow with a {feature}"]
GUIDANCE = {"chain": {"steps": 10}, "optimiser": {"steps": 12}, "views": {"cutouts": 3}}
# The spec for `investigate`, where nothing else is asked for.
SETTINGS: dict[str, Any] = {
    "out": "out/demo",
    "images": "planted:linked?count=3000&seed=7",
    "second": "planted:unlinked?count=3000&seed=8",
    "classifier": "planted:biased",
    "against": "planted:balanced",
    "sampler": "planted",
    "exemplars": {"at_least": 0},
    "starts": {"feature_templates": PROMPTS},
    "generate": {"findings": 8, "images": 3, "batch": 6, "guidance": GUIDANCE},
    "counterfactuals": {"images": 8, "batch": 4, "guidance": GUIDANCE},
    "disagreements": {"most_classes": 8, "images": 1, "batch": 4, "guidance": GUIDANCE},
}

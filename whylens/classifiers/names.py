"""How classifiers are named: schemes, their options, and the words of help texts. No torch."""

# What may follow a name of each scheme after the question mark.
SCHEMES: dict[str, tuple[str, ...]] = {
    "bundled": (),
    "timm": ("size",),
    "torchvision": ("weights", "classes"),
    "transformers": ("classes",),
    "open_clip": ("classes",),
    "checkpoint": ("arch", "classes", "size"),
    "robustness": ("arch", "classes"),
    "planted": (),
    "spufix": ("base",),
    "random": (),
}
# What may follow any name: what the head's logits mean.
HEADS = ("probabilities", "temperature")
# Names of classifiers, as help texts say them.
NAMES = (
    "bundled:NAME, timm:NAME, torchvision:NAME?weights=TAG, transformers:FOLDER, "
    "open_clip:MODEL/PRETRAINED, checkpoint:PATH?arch=NAME, robustness:PATH?arch=NAME, "
    "planted:NAME or spufix:FILE; ?probabilities=sigmoid for a multi-label head"
)

"""How guided images are optimised: part of every generation job's spec, in groups."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from whylens.settings import Settings

# Of two classifiers, one that says a class and one that does not: -p + p, -log p - log(1 - p),
# -log p + log p, or margins of logits.
DisagreementForm = Literal["probability", "log", "log_ratio", "margin"]

BLENDS: list[float | None] = [0.5, 0.3]


class ChainSettings(Settings):
    """The chain from noise to image."""

    steps: int = Field(10, ge=1, le=1000, description="Steps of the chain (Turbo, LCM: 1 to 4).")
    guidance_scale: float = Field(
        3.0,
        ge=0,
        description="Classifier-free guidance scale; 1 and below: no guidance (Turbo models: 0). A "
        "latent consistency model takes it as an input, at the cost of none.",
    )
    segment: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="Steps whose activations are held at once; the chain is recomputed in "
        "checkpoint segments of this many. 1: least memory; as many as steps: nothing is "
        "recomputed; null: about twice the square root of the steps; auto: as many as fit in "
        "memory. It changes no result.",
    )
    gradient_steps: int | None = Field(
        None,
        ge=1,
        description="Differentiate the U-Net in this many last steps only, with memory that does "
        "not grow with the steps; the gradient is then biased. null: in all, exactly.",
    )

    @property
    def own_segment(self) -> int | None:
        """`segment` where it does not follow from memory, else None."""
        return None if self.segment == "auto" else self.segment


class OptimiserSettings(Settings):
    """The optimiser of what steers the chain."""

    steps: int = Field(20, ge=0, description="Optimisation steps an image.")
    kind: Literal["adam", "adamw", "sgd"] = Field(
        "adam",
        description="adam; adamw: with a weight decay of 0.01; sgd: with a momentum of 0.9, whose "
        "learning rate is that of the gradients as they are.",
    )
    learning_rate: float = Field(0.02, gt=0, description="The learning rate.")
    latents_factor: float = Field(
        0.5, ge=0, description="Learning rate of the initial latents, as a factor; 0 keeps them."
    )
    text_factor: float = Field(
        1.0, ge=0, description="Learning rate of the prompt's embedding at each step, as a factor."
    )
    null_factor: float = Field(
        1.0, ge=0, description="Learning rate of the null text at each step, as a factor."
    )
    relative_epsilon: float = Field(
        0.03,
        ge=0,
        description="Adam's epsilon as a part of the image's own root mean square gradient, so "
        "that rounding makes no steps; 0: plain Adam, with 1e-8.",
    )
    cosine: bool = Field(False, description="Let learning rates fall along a cosine.")
    cosine_floor: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Where the cosine ends, as a part of learning_rate, for all that moves "
        "(DiG-IN: 0.1); a rate that is lower from the start stays as it is.",
    )
    clip: float | None = Field(
        None, gt=0, description="Clip the gradient of each variable to this infinity norm."
    )
    clipping: Literal["clamp", "rescale"] = Field(
        "clamp",
        description="How: entry by entry, which turns the gradient; or all of it by one factor, "
        "which keeps its direction.",
    )
    normalise: bool = Field(
        False, description="Divide the gradient of each variable by its length, after clipping."
    )
    stop_below: float | None = Field(
        None,
        description="An image is finished once its loss is below this (a counterfactual's is about "
        "-log of the target's probability: 0.3 is 0.74). More steps make the classifier surer and "
        "the image less like others.",
    )


class ViewSettings(Settings):
    """What the classifier gets to see of an image."""

    predictions: int = Field(
        1, ge=1, description="The loss is taken on this many last x0 predictions, later ones more."
    )
    cutouts: int = Field(4, ge=0, description="Random crops that the classifier sees; 0: none.")
    smallest: float = Field(
        0.7, gt=0, le=1, description="Smallest side of a crop, as a part of the image."
    )
    power: float = Field(
        1.0,
        gt=0,
        description="A crop's side is smallest + (1 - smallest) u^power, u uniform: 1 is uniform, "
        "below it larger crops are more frequent (DiG-IN: 0.3).",
    )
    noise: float = Field(0.02, ge=0, description="Sd of the noise on each crop.")


class RegulariserSettings(Settings):
    """What holds an image where it began."""

    power: Literal[1, 2] = Field(
        2,
        description="2: mean squared distances; 1: mean absolute ones, in pixels and in latents.",
    )
    pixels: float = Field(
        4.0, ge=0, description="Real images: weight of the mean distance to the image."
    )
    latents: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean distance in latents: to the real image's, or, of a "
        "generated image, to the start's.",
    )
    deltas: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean square of what is added to the prompt's embedding and to "
        "the null text.",
    )


class EditingSettings(Settings):
    """How real images are inverted, and where and when they may change."""

    inversion: Literal["direct", "null_text", "noised"] = Field(
        "direct",
        description="How the chain is made to lead back to an image. direct: its latents are "
        "corrected at each step, exactly; noised: so too, beginning at the image's latents with "
        "noise (models of one to four steps); null_text: the null text is optimised, at the cost "
        "of some ten chains.",
    )
    null_text_rate: float = Field(
        0.01, gt=0, description="null_text: Adam's learning rate at the first step of the chain."
    )
    encoder_steps: int = Field(
        0,
        ge=0,
        description="Steps that lead the encoder's latents to what decodes to the image; 0: the "
        "encoder's, as they are.",
    )
    mask: Literal["none", "attention", "given"] = Field(
        "attention",
        description="Where an image may change. none: anywhere; attention: where the sampler looks "
        "for the class word, or a neuron that is to fall for what it sees, with a margin; given "
        "(counterfactuals): in the collection's masks.",
    )
    outside: Literal["image", "held"] = Field(
        "image",
        description="Counterfactuals: what is shown outside of a mask. image: the image itself, to "
        "the pixel; held: what the chain makes there, held by regularisers.pixels and latents, "
        "which then count what is outside alone (DiG-IN: 250 and 25).",
    )
    margin: float = Field(
        0.0625,
        ge=0,
        le=0.5,
        description="How far a mask is grown, as a part of the image's side, so that another shape "
        "has room (DiG-IN: 0.04).",
    )
    thresholds: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: [0.0, 0.2, 0.4],
        description="Counterfactuals: parts of the chain in which words that both prompts have "
        "keep the image's cross-attention (prompt-to-prompt); the best of them is taken (DiG-IN: "
        "0.3, 0.4, 0.5). Empty: none is kept.",
    )
    swapped: Literal["own", "source"] = Field(
        "own",
        description="The word that is swapped, in that part of the chain: looks where it will; or "
        "source: where the image's own word looked (DiG-IN).",
    )
    blends: list[Annotated[float, Field(ge=0, le=1)] | None] = Field(
        default_factory=lambda: list(BLENDS),
        min_length=1,
        description="Counterfactuals with a mask: the part of the chain after which latents "
        "outside of it are the image's own; null: never, which leaves seams. The best is taken, "
        "with every threshold.",
    )
    blended: Literal["after", "before"] = Field(
        "after",
        description="Whether latents are the image's own after that part of the chain, or before "
        "its end (DiG-IN: before 0.3).",
    )

    @property
    def asks_words(self) -> bool:
        """Whether counterfactuals by these need the sampler's cross-attention."""
        return self.mask == "attention" or bool(self.thresholds)


class GuidanceSettings(Settings):
    """Settings of the chain, of the optimiser, and of the views that the classifier gets.

    Defaults are DiG-IN's where a laptop can afford them (methods.md, section 3); its T = 20 and
    three last predictions are one setting away.
    """

    chain: ChainSettings = Field(ChainSettings(), description="The chain from noise to image.")
    optimiser: OptimiserSettings = Field(
        OptimiserSettings(),
        description="The optimiser of what steers the chain.",
    )
    views: ViewSettings = Field(
        ViewSettings(),
        description="What the classifier gets to see of an image.",
    )
    regularisers: RegulariserSettings = Field(
        RegulariserSettings(),
        description="What holds an image where it began.",
    )
    editing: EditingSettings = Field(
        EditingSettings(),
        description="How real images are inverted, and where and when they may change.",
    )

    # What settings were called before they came in groups.
    RENAMED: ClassVar[dict[str, str]] = {
        "steps": "chain.steps",
        "guidance_scale": "chain.guidance_scale",
        "held_steps": "chain.segment",
        "gradient_steps": "chain.gradient_steps",
        "optimisation_steps": "optimiser.steps",
        "last_predictions": "views.predictions",
        "cutouts": "views.cutouts",
        "cutout_min": "views.smallest",
        "noise": "views.noise",
        "keep": "regularisers.pixels",
        "keep_latents": "regularisers.latents",
        "delta_size": "regularisers.deltas",
        **{
            name: f"optimiser.{name}"
            for name in (
                "learning_rate", "latents_factor", "text_factor", "null_factor", "cosine", "clip",
                "stop_below",
            )
        },
        **{
            name: f"editing.{name}"
            for name in (
                "inversion", "null_text_rate", "encoder_steps", "mask", "margin", "thresholds",
                "blends",
            )
        },
    }  # fmt: skip

    @property
    def inverting(self) -> dict[str, Any]:
        """What of the settings `whylens.diffusion.invert_images` takes."""
        return {
            "kind": self.editing.inversion,
            "null_text_rate": self.editing.null_text_rate,
            "steps": self.chain.steps,
            "guidance_scale": self.chain.guidance_scale,
            "encoder_steps": self.editing.encoder_steps,
        }

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        chain, optimiser, predictions = self.chain, self.optimiser, self.views.predictions
        if self.editing.inversion == "null_text" and chain.guidance_scale <= 1:
            raise ValueError(
                f"editing.inversion is null_text, but chain.guidance_scale is "
                f"{chain.guidance_scale:g}: at 1 and below the null text has no effect; take "
                "direct, which is exact at any scale"
            )
        if self.editing.outside == "held" and self.editing.mask == "none":
            raise ValueError(
                "editing.outside is held, but there is no outside: editing.mask is none"
            )
        if predictions > chain.steps:
            raise ValueError(
                f"views.predictions is {predictions}, but the chain has {chain.steps} steps"
            )
        if chain.gradient_steps is not None and predictions > chain.gradient_steps:
            raise ValueError(
                f"views.predictions is {predictions}, but only the last "
                f"{chain.gradient_steps} steps are differentiated (chain.gradient_steps)"
            )
        if optimiser.cosine_floor and not optimiser.cosine:
            raise ValueError("optimiser.cosine_floor is where a cosine ends: set optimiser.cosine")
        if optimiser.clipping == "rescale" and optimiser.clip is None:
            raise ValueError("optimiser.clipping says how to clip, but not to what: set clip")
        null_factor = optimiser.null_factor if chain.guidance_scale > 1 else 0.0
        if optimiser.steps and not (
            optimiser.latents_factor or optimiser.text_factor or null_factor
        ):
            raise ValueError(
                "nothing is left to optimise: optimiser.latents_factor, text_factor and "
                "null_factor are 0 (the null text has no effect at guidance_scale 1 and below); "
                "set one of them, or optimiser.steps to 0"
            )
        return self

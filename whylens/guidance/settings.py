"""How guided images are optimised: part of every generation job's spec."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GuidanceSettings(BaseModel):
    """Settings of the chain, of the optimiser, and of the views that the classifier gets.

    Defaults are DiG-IN's where a laptop can afford them (methods.md, section 3); its T = 20 and
    three last predictions are one setting away.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(10, ge=1, le=1000, description="Steps of the chain (Turbo models: 1 to 4).")
    guidance_scale: float = Field(
        3.0,
        ge=0,
        description="Classifier-free guidance scale; 1 and below: no guidance (Turbo models: 0).",
    )
    held_steps: int | None = Field(
        None,
        ge=1,
        description="Steps whose activations are held at once; the chain is recomputed in segments "
        "of this many. 1: least memory; as many as steps: nothing is recomputed; null: about twice "
        "the square root of the steps. It changes no result.",
    )
    gradient_steps: int | None = Field(
        None,
        ge=1,
        description="Differentiate the U-Net in this many last steps only, with memory that does "
        "not grow with the steps; the gradient is then biased. null: in all, exactly.",
    )
    optimisation_steps: int = Field(20, ge=0, description="Optimisation steps an image.")
    learning_rate: float = Field(0.02, gt=0, description="Adam's learning rate.")
    latents_factor: float = Field(
        0.5, ge=0, description="Learning rate of the initial latents, as a factor; 0 keeps them."
    )
    text_factor: float = Field(
        1.0, ge=0, description="Learning rate of the prompt's embedding at each step, as a factor."
    )
    null_factor: float = Field(
        1.0, ge=0, description="Learning rate of the null text at each step, as a factor."
    )
    last_predictions: int = Field(
        1, ge=1, description="The loss is taken on this many last x0 predictions, later ones more."
    )
    cosine: bool = Field(False, description="Let the learning rate fall along a cosine.")
    clip: float | None = Field(None, gt=0, description="Clip gradients to this infinity norm.")
    cutouts: int = Field(4, ge=0, description="Random crops that the classifier sees; 0: none.")
    cutout_min: float = Field(
        0.7, gt=0, le=1, description="Smallest side of a crop, as a part of the image."
    )
    noise: float = Field(0.02, ge=0, description="Sd of the noise on each crop.")
    stop_below: float | None = Field(
        None,
        description="An image is finished once its loss is below this (a counterfactual's is about "
        "-log of the target's probability: 0.3 is 0.74). More steps make the classifier surer and "
        "the image less like others.",
    )
    keep: float = Field(
        4.0, ge=0, description="Counterfactuals: weight of the squared distance to the image."
    )
    keep_latents: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean squared distance in latents: to the real image's, or, of a "
        "generated image, to the start's.",
    )
    delta_size: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean square of what is added to the prompt's embedding and to "
        "the null text.",
    )
    inversion: Literal["direct", "null_text"] = Field(
        "direct",
        description="Real images: how the chain is made to lead back to them. direct: its latents "
        "are corrected at each step, exactly; null_text: the null text is optimised, at the cost "
        "of some ten chains.",
    )
    null_text_rate: float = Field(
        0.01,
        gt=0,
        description="Real images, null_text: Adam's learning rate at the first step of the chain.",
    )
    encoder_steps: int = Field(
        0,
        ge=0,
        description="Real images: steps that lead the encoder's latents to what decodes to the "
        "image; 0: the encoder's, as they are.",
    )
    mask: Literal["none", "attention", "given"] = Field(
        "attention",
        description="Real images: where one may change. none: anywhere; attention: where the "
        "sampler looks for the class word, or a neuron that is to fall for what it sees, with a "
        "margin; given (counterfactuals): in the collection's masks.",
    )
    margin: float = Field(
        0.0625,
        ge=0,
        le=0.5,
        description="Real images with a mask: how far it is grown, as a part of the image's "
        "side, so that another shape has room (DiG-IN: 0.04).",
    )
    thresholds: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: [0.0, 0.2, 0.4],
        description="Counterfactuals: parts of the chain in which words that both prompts have "
        "keep the image's cross-attention (prompt-to-prompt); the best of them is taken (DiG-IN: "
        "0.3, 0.4, 0.5). Empty: none is kept.",
    )
    blends: list[Annotated[float, Field(ge=0, le=1)] | None] = Field(
        default_factory=lambda: [None, 0.3],
        min_length=1,
        description="Counterfactuals with a mask: the part of the chain from which on latents "
        "outside of it are the image's own; null: never. The best is taken, with every threshold.",
    )

    @property
    def inverting(self) -> dict[str, Any]:
        """What of the settings `whylens.diffusion.invert_images` takes."""
        return {
            "kind": self.inversion,
            "null_text_rate": self.null_text_rate,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "encoder_steps": self.encoder_steps,
        }

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.inversion == "null_text" and self.guidance_scale <= 1:
            raise ValueError(
                f"inversion is null_text, but guidance_scale is {self.guidance_scale:g}: at 1 and "
                "below the null text has no effect; take direct, which is exact at any scale"
            )
        if self.last_predictions > self.steps:
            raise ValueError(
                f"last_predictions is {self.last_predictions}, but the chain has {self.steps} steps"
            )
        if self.gradient_steps is not None and self.last_predictions > self.gradient_steps:
            raise ValueError(
                f"last_predictions is {self.last_predictions}, but only the last "
                f"{self.gradient_steps} steps are differentiated (gradient_steps)"
            )
        null_factor = self.null_factor if self.guidance_scale > 1 else 0.0
        if self.optimisation_steps and not (self.latents_factor or self.text_factor or null_factor):
            raise ValueError(
                "nothing is left to optimise: latents_factor, text_factor and null_factor are 0 "
                "(the null text has no effect at guidance_scale 1 and below); set one of them, or "
                "optimisation_steps to 0"
            )
        return self

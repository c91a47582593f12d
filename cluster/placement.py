"""Where workers run: part of every job's spec."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from whylens.errors import UsageError
from whylens.settings import Settings

Where = Literal["colocated", "remote"]


def _whole(value: float | Literal["auto"]) -> float | Literal["auto"]:
    if value != "auto" and value > 1 and value != int(value):
        raise ValueError("Ray gives a fraction of one GPU, or whole ones")
    return value


Gpus = Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], AfterValidator(_whole)]
GIB = 2**30
# Ray counts in ten-thousandths.
PARTS = 10_000
ROUNDING = 1e-6


def _even_part(fraction: float) -> float:
    """The part 1/n of a GPU, as Ray counts, for as many workers n as a fraction in (0, 1) lets in:
    0.4 -> 0.5, 0.3 -> 0.3333."""
    sharing = min(int(1 / fraction + ROUNDING), PARTS)
    return PARTS // sharing / PARTS


class Resources(Settings):
    """How many workers, and what each books of a node, as Ray counts it."""

    workers: tuple[int, int] = Field(
        (1, 8), description="Fewest and most workers; as many as the cluster has room for."
    )
    num_gpus: Gpus = Field(
        "auto",
        description="GPUs a worker, or a fraction of one, which is rounded up so that as many "
        "workers share a GPU evenly (0.4 books 0.5); 0 to run on CPUs. auto: 1 where the cluster "
        "has any, else 0.",
    )
    num_cpus: float = Field(1.0, gt=0, description="CPU cores a worker.")
    memory: float | None = Field(
        None, gt=0, description="GiB of a node's memory that a worker books; null: not counted."
    )
    accelerator_type: str | None = Field(
        None, description="Only nodes with this kind of GPU, as Ray calls it: H100, A100, T4, ..."
    )
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="What a worker books of resources that nodes declare: {name: amount}."
    )
    strategy: Literal["fill", "spread"] = Field(
        "fill", description="fill: one node after the other, as Ray does it; spread: over nodes."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        fewest, most = self.workers
        if not 1 <= fewest <= most:
            raise ValueError(
                f"workers is [fewest, most] with 1 <= fewest <= most, not {fewest, most}"
            )
        if self.accelerator_type is not None and self.num_gpus == 0:
            raise ValueError("accelerator_type goes with GPUs, and num_gpus is 0")
        return self

    @field_validator("resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        for name in value:
            if name in own:
                raise ValueError(f"{name} is given by the setting {own[name]}")
        return value

    @property
    def gpus(self) -> float:
        """GPUs that a worker books; none of `auto`, till `whylens.cluster.room.settled` has looked.

        A fraction is an even part of a GPU. Ray sends a worker to a node whose free GPUs come to
        enough in sum: with 0.2 left of each of two, one that books 0.4 would wait there for ever.
        """
        if self.num_gpus == "auto":
            return 0.0
        return _even_part(self.num_gpus) if 0 < self.num_gpus < 1 else self.num_gpus

    @property
    def without_gpus(self) -> Self:
        """The same for work that uses none."""
        return self.model_copy(update={"num_gpus": 0.0, "accelerator_type": None})

    @property
    def part_of_gpu(self) -> float:
        """How much of its GPU a worker has, where several share one."""
        return self.gpus if 0 < self.gpus < 1 else 1.0

    @property
    def device(self) -> str:
        """The torch device of a worker."""
        return "cuda" if self.gpus > 0 else "cpu"

    @property
    def booked(self) -> dict[str, float]:
        """What a worker books of a node, by Ray's names."""
        booked = {"CPU": self.num_cpus, "GPU": self.gpus, **self.resources}
        if self.memory is not None:
            booked["memory"] = self.memory * GIB
        if self.accelerator_type is not None:
            booked[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return {name: amount for name, amount in booked.items() if amount}

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of an actor or task that books this."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.gpus}
        if self.memory is not None:
            options["memory"] = int(self.memory * GIB)
        if self.accelerator_type is not None:
            options["accelerator_type"] = self.accelerator_type
        if self.resources:
            options["resources"] = self.resources
        if self.strategy == "spread":
            options["scheduling_strategy"] = "SPREAD"
        return options


class Placement(Resources):
    """Of a job with classifiers beside a sampler: where those are, too."""

    classifiers: Where | dict[str, Where] = Field(
        "colocated",
        description="Classifiers of guided jobs beside the sampler, or remote, as actors with "
        "resources of their own; {NAME: remote} for some of them.",
    )
    classifier_gpus: Gpus = Field(
        "auto",
        description="GPUs of a remote classifier, or a fraction of one. auto: 1 where workers have "
        "any, else 0.",
    )

    def remote(self, classifiers: Sequence[str]) -> list[str]:
        """Which of the classifiers are actors of their own.

        Raises
        ------
        UsageError
            If the setting names one that is none of them.
        """
        if isinstance(self.classifiers, str):
            return list(classifiers) if self.classifiers == "remote" else []
        for name in self.classifiers:
            if name not in classifiers:
                raise UsageError(
                    f"placement.classifiers names {name!r}, which takes no part; there are: "
                    f"{', '.join(classifiers)}"
                )
        return [name for name in classifiers if self.classifiers.get(name) == "remote"]

    @property
    def of_classifiers(self) -> Resources:
        """Where a remote classifier runs: on one core, and GPUs of its own."""
        own = self.classifier_gpus
        gpus = (1.0 if self.gpus > 0 else 0.0) if own == "auto" else own
        return Resources(num_gpus=gpus, accelerator_type=self.accelerator_type if gpus else None)

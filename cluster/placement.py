"""Where workers run: part of every job's spec."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from whylens.settings import Settings


class Placement(Settings):
    """Resources of a pool of workers."""

    workers: tuple[int, int] = Field(
        (1, 8), description="Fewest and most workers; as many as the cluster has room for."
    )
    num_gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="GPUs a worker, or a fraction of one; 0 to run on CPUs. auto: 1 where the "
        "cluster has any, else 0.",
    )
    num_cpus: float = Field(1.0, gt=0, description="CPU cores a worker.")
    classifiers: Literal["colocated", "remote"] = Field(
        "colocated",
        description="Classifiers beside the sampler, or as actors on GPUs of their own.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Placement":
        fewest, most = self.workers
        if not 1 <= fewest <= most:
            raise ValueError(
                f"workers is [fewest, most] with 1 <= fewest <= most, not {fewest, most}"
            )
        return self

    @property
    def gpus(self) -> float:
        """GPUs a worker; of `auto` none, until `whylens.cluster.room.settled` has looked."""
        return 0.0 if self.num_gpus == "auto" else self.num_gpus

    @property
    def part_of_gpu(self) -> float:
        """How much of its GPU a worker has, where several share one."""
        return self.gpus if 0 < self.gpus < 1 else 1.0

    @property
    def device(self) -> str:
        """The torch device of a worker."""
        return "cuda" if self.gpus > 0 else "cpu"

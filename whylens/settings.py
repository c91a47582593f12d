"""What settings of all kinds are."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A spec, or a part of one: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")

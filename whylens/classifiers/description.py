"""What is known of a classifier whose network is not here: enough to plan what others do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from whylens.classifiers.activation import SOFTMAX, Activation
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform
from whylens.images.matching import fold, near_hint, synonyms


class Classes:
    """K class names, of something with a name, and the index of each."""

    name: str
    class_names: tuple[str, ...]

    def class_index(self, name: str | int) -> int:
        """The index of a class by name, by one of its synonyms, or by index.

        Raises
        ------
        UsageError
            If the classifier has no such class; near names are listed.
        """
        if isinstance(name, int):
            return self._numbered(name)
        wanted, known = fold(name), self._synonyms
        if wanted in known:
            return known[wanted]
        if name.isdecimal():
            return self._numbered(int(name))
        raise UsageError(f"{self.name} has no class {name!r}{near_hint(wanted, known)}")

    @cached_property
    def _synonyms(self) -> dict[str, int]:
        return synonyms(self.class_names)

    def _numbered(self, index: int) -> int:
        last = len(self.class_names) - 1
        if not 0 <= index <= last:
            raise UsageError(f"{self.name} has the classes 0 to {last}, not {index}")
        return index


@dataclass(frozen=True)
class Description(Classes):
    """A classifier without its network and head; attributes as `Classifier` has them.

    `base` is the name of the classifier that it repairs, where it is a repaired one.
    """

    name: str
    class_names: tuple[str, ...]
    eval_transform: EvalTransform
    activation: Activation = SOFTMAX
    base: str | None = None

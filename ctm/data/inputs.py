"""What a stored image is, and becomes before a model sees it: scaling, standardisation, size. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ctm.errors import ArtifactError

__all__ = ["InputSpec", "PixelValues"]

PixelValues = Literal["bytes", "numbers", "dfc2020", "dfc2020_image_max"]
"""What stored pixel values are: photographs or rasters of 8 bits; a raster's own values of another type; or what the
reader of DFC2020 makes of reflectance and decibels, with a fixed range or by each image's own maximum."""


@dataclass(frozen=True)
class InputSpec:
    """How stored pixel values become the input of a model: ``(value * scale - mean) / std``, resized to ``image_size``.

    Attributes:
        image_size: height and width in pixels, in this order.
        channels: number of image channels.
        scale: multiplier that brings stored values to about [0, 1] (8-bit images 1/255, DFC2020 1e-4).
        mean: mean of each scaled channel, or None for no standardisation.
        std: standard deviation of each scaled channel, above 0; None exactly where ``mean`` is None.
        values: what the stored values are; None for models of an older ctm, which did not say.
        stored_size: usual (median) height and width in pixels of the stored images that the model has learned from;
            None likewise.

    Raises:
        ValueError: ``mean`` and ``std`` do not have one value a channel, or a deviation is not above 0.
    """

    image_size: tuple[int, int]
    channels: int
    scale: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    values: PixelValues | None = None
    stored_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together, or both left out")
        if self.mean is None or self.std is None:
            return
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values for {self.channels} channels; "
                "both need one value a channel"
            )
        if min(self.std) <= 0:
            raise ValueError(f"every standard deviation must be above 0, got {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; ``from_dict`` makes an equal object of them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Rebuilds what ``to_dict`` gave.

        Raises:
            ArtifactError: a field is missing, or has a value that no model input can have.
        """
        try:
            stored_size, kind = values.get("stored_size"), values.get("values")
            if kind not in (None, *get_args(PixelValues)):
                raise ValueError(f"pixel values {kind!r}, of {', '.join(get_args(PixelValues))}")
            return cls(
                image_size=_size(values["image_size"]),
                channels=int(values["channels"]),
                scale=float(values["scale"]),
                mean=_numbers(values["mean"]),
                std=_numbers(values["std"]),
                values=kind,
                stored_size=None if stored_size is None else _size(stored_size),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the description of the model's input is damaged ({error!r} in {values!r}); write the model again"
            ) from error


def _size(values: list[int]) -> tuple[int, int]:
    """Height and width."""
    height, width = values
    return int(height), int(width)


def _numbers(values: list[float] | None) -> tuple[float, ...] | None:
    """JSON's list as a tuple; null stays None."""
    return None if values is None else tuple(float(value) for value in values)

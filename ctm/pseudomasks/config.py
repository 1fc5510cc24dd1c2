"""Parameters of the stage extract_pseudomasks: whose masks, of which classes, by which maps."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ctm.errors import ParamsError
from ctm.pseudomasks.map_config import MapConfig, StrategyName
from ctm.pseudomasks.recipes import canonical_recipe, parse_recipe

__all__ = ["ExtractConfig"]


class ExtractConfig(MapConfig):
    """How the pseudo-masks of a data set are extracted."""

    # Wider than the field that it replaces: "auto" stands for one of the others, which ctm.pseudomasks.auto chooses.
    strategy: Literal[StrategyName, "auto"] = Field(  # type: ignore[assignment]
        default="relevance",
        description=f"{str(MapConfig.model_fields['strategy'].description).removesuffix('.')}; auto: the recipe of "
        "`auto` whose masks the classifier itself confirms best.",
    )

    auto: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "relevance",
        "relevance+affinity",
        "relevance+pamr",
        "relevance+affinity+pamr",
        "gradcam",
        "attention+argmax",
    )
    """Recipes `strategy[+assignment][+refinement]` that strategy auto tries; it replaces assignment and refinement."""

    auto_images: Annotated[int, Field(ge=1)] = 64
    """Images of the train split that strategy auto tries them on."""

    label_source: Literal["image", "predicted"] = "image"
    """Which classes an image's mask may hold: its image-level labels, or those that the classifier predicts."""

    tokens: Literal["all", "candidates"] = "all"
    """Class tokens in the sequence: of all classes, or of the image's candidates alone, so that the cost grows with
    these, for data sets of many classes; candidates needs label_source image, and tells nothing of the mAP."""

    tokens_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.02
    """With tokens candidates: fraction of the pixels of 32 images of a split that may differ from the masks of all
    tokens; where more does, a warning says so and all tokens are used."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability above which a class counts as predicted."""

    fill: Literal["nearest", "background", "ignore"] = "nearest"
    """What a pixel gets that no class takes: the nearest painted class, the background class, or ignore (255)."""

    background_threshold: Annotated[float, Field(ge=0, le=1)] | None = 0.3
    """With argmax and fill background: a pixel whose maps, each scaled to maximum 1, all lie below is background;
    null: a threshold for every image from its own maps (Otsu 1979)."""

    confidence: bool = False
    """Writes how sure each pixel is, 0..255: the winner's share among the candidates' maps and, with fill background,
    the distance from the threshold; needs assignment argmax."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per forward pass."""

    splits: Annotated[tuple[Literal["train", "val"], ...], Field(min_length=1)] = ("train", "val")
    """Splits that pseudo-masks are written for; the segmenter needs train."""

    @field_validator("auto")
    @classmethod
    def _readable(cls, recipes: tuple[str, ...]) -> tuple[str, ...]:
        """Each recipe once, by the shortest name that says it: scores are looked up by these."""
        try:
            return tuple(dict.fromkeys(map(canonical_recipe, recipes)))
        except ParamsError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _candidates_are_known(self) -> Self:
        if self.tokens == "candidates" and self.label_source != "image":
            raise ValueError(
                "tokens is candidates, which must be known before the classifier has run, but label_source is "
                f"{self.label_source}: set label_source to image, or tokens to all"
            )
        return self

    @model_validator(mode="after")
    def _confidence_is_of_a_winner(self) -> Self:
        if self.strategy == "auto":
            painting = [f"auto: {recipe}" for recipe in self.auto if parse_recipe(recipe)["assignment"] == "paper"]
        else:
            painting = ["assignment: paper"] if self.assignment == "paper" else []
        if self.confidence and painting:
            raise ValueError(
                "confidence is the share of the class that wins a pixel, and the rule paper paints one class over "
                f"the other ({', '.join(painting)}): take argmax, or leave confidence out"
            )
        return self

"""COCO's instances JSON.

The file of train has 450 MB and 600,000 objects. Its parsed tree would take gigabytes, so the shapes of the objects
stay text, compressed, until their image is decoded.

``coco2014`` imports this file when it needs it, because it needs msgspec.
"""

from __future__ import annotations

import codecs
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec

from ctm.data.datasets.coco_classes import CATEGORY_IDS, CLASS_NAMES, MASK_VALUES
from ctm.data.datasets.coco_truth import AnnotatedImage
from ctm.errors import DataError
from ctm.runtime.storage import Tree

__all__ = ["read_instances"]

logger = logging.getLogger(__name__)


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    area: float | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    """Its text in the file."""


class _Category(msgspec.Struct):
    id: int
    name: str


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_instances(tree: Tree, path: str) -> list[AnnotatedImage]:
    """The images in an instances JSON, by name.

    Python's ``NaN`` and ``Infinity`` are no JSON, so one of them makes the whole file unusable, as does a field of the
    wrong type; an object without area or shape does so for its image only.

    Raises:
        DataError: the JSON is damaged, contradicts itself or is not COCO's.
    """
    place = tree.place(path)
    logger.info("reading %s (%d MB)", place, tree.files[path].size // 10**6)
    data = tree.read(path).removeprefix(codecs.BOM_UTF8)
    try:
        content = msgspec.json.decode(data, type=_Instances)
    except msgspec.ValidationError as error:
        raise DataError(f"{place} is no instances JSON of COCO: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{place} is no valid JSON ({error}); is the file complete? Download it again") from error
    try:
        return _annotated(content)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _annotated(content: _Instances) -> list[AnnotatedImage]:
    _check_categories({category.id: category.name for category in content.categories})
    images: dict[int, _Image] = {}
    for image in content.images:
        if image.id in images:
            raise DataError(f"image {image.id} is listed twice")
        images[image.id] = image
    annotations = _by_image(content.annotations)
    unknown = sorted(annotations.keys() - images.keys())
    if unknown:
        raise DataError(f"annotations of {len(unknown)} images that it does not list, such as image {unknown[0]}")
    found = [_packed(image, annotations.get(number, [])) for number, image in images.items()]
    return sorted(found, key=lambda image: (image.stem, image.number))


def _by_image(annotations: Iterable[_Annotation]) -> dict[int, list[_Annotation]]:
    found = defaultdict(list)
    for annotation in annotations:
        if annotation.category_id not in MASK_VALUES:
            raise DataError(
                f"annotation {annotation.id} has category {annotation.category_id}, which is none of COCO's 80"
            )
        found[annotation.image_id].append(annotation)
    return found


def _packed(image: _Image, annotations: list[_Annotation]) -> AnnotatedImage:
    labels = tuple(sorted({MASK_VALUES[annotation.category_id] for annotation in annotations}))
    # All stay in memory until they are decoded.
    packed = zlib.compress(msgspec.json.encode(annotations), 1)
    return AnnotatedImage(image.id, PurePosixPath(image.file_name).stem, image.height, image.width, labels, packed)


def _check_categories(found: dict[int, str]) -> None:
    wanted = dict(zip(CATEGORY_IDS, CLASS_NAMES[1:], strict=True))
    for number in sorted({*wanted, *found}):
        if found.get(number) != wanted.get(number):
            raise DataError(
                f"its categories are not COCO's 80: category {number} is {found.get(number, 'missing')!r}, "
                f"expected {wanted.get(number, 'no such category')!r}"
            )

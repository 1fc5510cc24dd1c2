"""The good miniatures by name, each with how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ctm.data.config import DatasetConfig
from tests.miniatures import ade20k, coco2014, dfc2020, endotect, folder, voc2012


@dataclass(frozen=True)
class DataSet:
    """A good miniature.

    Attributes:
        write: writes it.
        config: how it is read.
        home: the folder below the root where its paths are said to begin.
    """

    write: Callable[[Path], None]
    config: DatasetConfig
    home: str = ""


def _set(write: Callable[[Path], None], format: str, *, home: str = "", **options: Any) -> DataSet:
    return DataSet(write, DatasetConfig.model_validate({"format": format, "root": "raw", **options}), home)


_voc = partial(_set, format="voc2012", home="VOCdevkit/VOC2012/", background="background")
_coco = partial(_set, format="coco2014", background="background")
_endotect = partial(_set, endotect.write_endotect, "endotect", background="background")

SETS = {
    "voc2012": _voc(voc2012.write_voc2012),
    "sbd": _voc(partial(voc2012.write_voc2012, aug="sbd"), home="VOCdevkit/VOCaug/dataset/"),
    "voc2012 xml": _voc(voc2012.write_voc2012, labels_from="annotations"),
    "coco2014": _coco(coco2014.write_coco2014),
    "coco2014 masks": _coco(
        partial(coco2014.write_coco2014, annotations=False, masks="contiguous"), labels_from="masks"
    ),
    "ade20k": _set(ade20k.write_ade20k, "ade20k", home="ADEChallengeData2016/", zero_label="class"),
    "dfc2020": _set(dfc2020.write_dfc2020, "dfc2020", min_label_fraction=0.1),
    "endotect": _endotect(),
    "endotect folds": _endotect(folds=2),
    "folder": _set(folder.write_folder, "folder"),
    "arrays": _set(partial(folder.write_folder, images="arrays"), "folder"),
    "geotiffs": _set(partial(folder.write_folder, images="geotiffs"), "folder"),
}

"""Libraries of the extra ``data``, which only some data need: each is imported where it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ctm.errors import DataError

__all__ = ["load_library", "load_rasterio"]


def load_library(name: str, whose: str) -> None:
    """Imports a library that may be missing.

    Args:
        name: of its module.
        whose: what needs it, for the message: "GeoTIFF data need".

    Raises:
        DataError: it is not installed.
    """
    try:
        import_module(name)
    except ImportError as error:
        raise DataError(f"{whose} {name}, which is not installed: pip install 'ctm[data]'") from error


def load_rasterio() -> Any:
    """rasterio, which all GeoTIFFs need.

    Raises:
        DataError: it is not installed.
    """
    load_library("rasterio", "GeoTIFF data need")
    import rasterio  # a statement, as fingerprints and manifests look for them

    return rasterio

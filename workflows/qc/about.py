"""What a step that writes metrics has to know about its image."""

from __future__ import annotations

from typing import Any

from neuroferry.bids.model import Image


def about_image(image: Image) -> dict[str, Any]:
    """Return the inputs of a step that writes metrics: what the image is.

    Parameters
    ----------
    image : Image
        With its sidecars.

    Returns
    -------
    dict
        Inputs of `neuroferry.interfaces.qc.document.IqmInputSpec`.
    """
    description = image.root / "dataset_description.json"
    about = {
        "source": str(image.path),
        "sidecars": [str(path) for path in image.sidecars],
        "entities": dict(image.entities),
    }
    return {**about, "description": str(description)} if description.is_file() else about

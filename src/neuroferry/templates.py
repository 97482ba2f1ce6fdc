"""The built-in template, and templates from a user's TemplateFlow folder.

Nothing is downloaded. MNI152NLin2009aSym comes from the files of nilearn: the skull-stripped
T1-weighted template and its grey- and white-matter maps at 1 mm. Images are cached for the life
of the process. Other templates are files ``tpl-<space>_..._T1w.nii.gz`` with a brain mask next to
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroferry.errors import ExitCode, InputError, UsageError

if TYPE_CHECKING:
    import nibabel as nb
    from numpy.typing import NDArray

TEMPLATE_SPACE = "MNI152NLin2009aSym"
#: Voxel size (mm) that brains are registered at, where a template has several.
_REGISTRATION_MM = 1.0
_SPACE = re.compile(
    r"(?P<name>[A-Za-z0-9]+)(:cohort-(?P<cohort>[A-Za-z0-9]+))?(:res-0*(?P<res>\d+))?"
)


@dataclass(frozen=True)
class TemplateBrain:
    """Brain of a template on one voxel grid.

    Attributes
    ----------
    space : str
        BIDS space label.
    t1w : ndarray of float32, shape (I, J, K)
        Skull-stripped T1-weighted intensities, scaled to [0, 1].
    brain_mask : ndarray of bool, shape (I, J, K)
        Undilated brain mask.
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to RAS+ mm.
    """

    space: str
    t1w: NDArray[np.float32]
    brain_mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Template(TemplateBrain):
    """Template with its tissue maps, which are read on first use.

    Attributes
    ----------
    resolution : int
        Isotropic voxel size, mm.
    """

    resolution: int

    @property
    def tpms(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Tissue probabilities, each of shape (I, J, K): GM, WM, CSF.

        Cerebrospinal fluid is the part of the brain mask that is neither grey nor white matter.
        """
        return _load_tissues(self.resolution)

    @property
    def gm(self) -> NDArray[np.float32]:
        """Grey matter."""
        return self.tpms[0]

    @property
    def wm(self) -> NDArray[np.float32]:
        """White matter."""
        return self.tpms[1]

    @property
    def csf(self) -> NDArray[np.float32]:
        """Cerebrospinal fluid."""
        return self.tpms[2]


def _read_only(image: nb.nifti1.Nifti1Image) -> NDArray[np.float32]:
    data = np.asarray(image.get_fdata(dtype=np.float32))
    data.setflags(write=False)
    return data


@lru_cache(maxsize=4)
def load_template(resolution: int = 1) -> Template:
    """Load MNI152NLin2009aSym.

    Parameters
    ----------
    resolution : int
        Isotropic voxel size in mm; resampled by nilearn unless 1.

    Returns
    -------
    Template
        The arrays are read-only, as they are shared by all callers in the process.
    """
    from nilearn import datasets

    t1w = datasets.load_mni152_template(resolution=resolution)
    mask = _read_only(datasets.load_mni152_brain_mask(resolution=resolution)) > 0.5
    affine = np.asarray(t1w.affine, dtype=np.float64)
    for array in (mask, affine):
        array.setflags(write=False)
    return Template(TEMPLATE_SPACE, _read_only(t1w), mask, affine, resolution)


@lru_cache(maxsize=4)
def _load_tissues(
    resolution: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    from nilearn import datasets

    gm = np.clip(_read_only(datasets.load_mni152_gm_template(resolution=resolution)), 0, 1)
    wm = np.clip(_read_only(datasets.load_mni152_wm_template(resolution=resolution)), 0, 1)
    mask = load_template(resolution).brain_mask
    csf = np.where(mask, np.clip(1.0 - gm - wm, 0, 1), 0).astype(np.float32)
    for array in (gm, wm, csf):
        array.setflags(write=False)
    return gm, wm, csf


@dataclass(frozen=True)
class SpaceName:
    """Template space as written by the user: ``NAME[:cohort-N][:res-N]``.

    Attributes
    ----------
    name : str
        Name of the template.
    cohort : str or None
        Cohort of the template, if it has several.
    resolution : str or None
        Resolution label, without leading zeros.
    """

    name: str
    cohort: str | None = None
    resolution: str | None = None


def parse_space(text: str) -> SpaceName | None:
    """Parse the name of a template space; None if it is not one.

    Examples
    --------
    >>> parse_space("MNI152NLin2009cAsym:res-02")
    SpaceName(name='MNI152NLin2009cAsym', cohort=None, resolution='2')
    >>> parse_space("MNIPediatricAsym:cohort-1").cohort
    '1'
    >>> parse_space("MNI152NLin2009cAsym:2mm") is None
    True
    """
    match = _SPACE.fullmatch(text)
    return SpaceName(match["name"], match["cohort"], match["res"]) if match else None


@dataclass(frozen=True)
class TemplateGrid:
    """Files of one voxel grid of a template.

    Attributes
    ----------
    t1w, mask : pathlib.Path
        T1-weighted image, with or without skull, and its brain mask.
    shape : tuple of int
        Number of voxels along each axis.
    zooms : tuple of float
        Voxel size, mm.
    """

    t1w: Path
    mask: Path
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def size(self) -> str:
        """Voxel size as text, for sidecars.

        >>> TemplateGrid(Path("t1w"), Path("mask"), (9, 9, 9), (2.0, 2.0, 2.0)).size
        '2 mm isotropic'
        """
        if max(self.zooms) - min(self.zooms) < 1e-3:
            return f"{self.zooms[0]:g} mm isotropic"
        return f"{' x '.join(f'{zoom:g}' for zoom in self.zooms)} mm"


@dataclass(frozen=True, eq=False)
class OtherTemplate:
    """Template from a TemplateFlow folder, with the requested grids.

    Attributes
    ----------
    name : str
        Name of the template.
    cohort : str or None
        As in `SpaceName`.
    registration : TemplateGrid
        Registration target: the grid whose voxel size is closest to 1 mm.
    grids : dict of str to TemplateGrid
        All grids in the folder, keyed by resolution label.
    """

    name: str
    cohort: str | None
    registration: TemplateGrid
    grids: dict[str, TemplateGrid]

    @property
    def label(self) -> str:
        """Space in the names of transforms, which have no entity for a cohort.

        >>> grid = TemplateGrid(Path("t1w"), Path("mask"), (1, 1, 1), (1, 1, 1))
        >>> OtherTemplate("MNIPediatricAsym", "1", grid, {}).label
        'MNIPediatricAsym+1'
        """
        return self.name if self.cohort is None else f"{self.name}+{self.cohort}"

    @property
    def node(self) -> str:
        """Name in a graph."""
        return self.label.lower().replace("+", "_cohort_")

    @property
    def entities(self) -> dict[str, str]:
        """Entities of the space in file names, except the resolution."""
        cohort = {} if self.cohort is None else {"cohort": self.cohort}
        return {"space": self.name, **cohort}

    def grid(self, resolution: str | None) -> TemplateGrid:
        """Choose a grid by its label; without a label, that of the registration."""
        return self.registration if resolution is None else self.grids[resolution]


def find_templates(spaces: Sequence[SpaceName], home: Path | None) -> tuple[OtherTemplate, ...]:
    """Find templates in a TemplateFlow folder, without network access.

    Parameters
    ----------
    spaces : sequence of SpaceName
        Requested spaces, without `TEMPLATE_SPACE`.
    home : pathlib.Path or None
        Folder that holds ``tpl-<name>``.

    Returns
    -------
    tuple of OtherTemplate
        Each template once, in the order of first request.

    Raises
    ------
    UsageError
        If no folder was given.
    InputError
        With exit code 66, naming the missing or empty file, and how to get it.
    """
    found: dict[tuple[str, str | None], OtherTemplate] = {}
    for space in spaces:
        if home is None:
            raise UsageError(
                f"'{space.name}' is not an output space built into neuroferry: "
                f"{_own_spaces()}. Other templates are read from your own TemplateFlow folder: "
                "set it with --templateflow-home or TEMPLATEFLOW_HOME."
            )
        key = space.name, space.cohort
        if key not in found:
            found[key] = _find_template(space, home)
        if space.resolution is not None and space.resolution not in found[key].grids:
            raise _missing(space, home, _folder(space, home))
    return tuple(found.values())


def _own_spaces() -> str:
    return f"those are bold, T1w, {TEMPLATE_SPACE}, and {TEMPLATE_SPACE}:res-2 (1 to 4 mm)"


def _folder(space: SpaceName, home: Path) -> Path:
    folder = home / f"tpl-{space.name}"
    return folder if space.cohort is None else folder / f"cohort-{space.cohort}"


def _find_template(space: SpaceName, home: Path) -> OtherTemplate:
    """Find the grids of a template that have both files."""
    folder = _folder(space, home)
    cohort = "" if space.cohort is None else f"_cohort-{space.cohort}"
    stem = f"tpl-{space.name}{cohort}"
    name = re.compile(
        re.escape(stem) + r"(?:_res-0*(?P<res>\d+))?(?:_desc-brain)?_T1w\.nii(?:\.gz)?"
    )
    grids: dict[str, TemplateGrid] = {}
    for path in sorted(
        folder.glob(f"{stem}*_T1w.nii*"), key=lambda p: ("desc-" in p.name, p.name)
    ):
        match = name.fullmatch(path.name)
        if match is None or match["res"] in grids:
            continue
        mask = path.with_name(_mask_name(path.name))
        if _holds_something(path) and _holds_something(mask):
            grids[match["res"] or ""] = _read_grid(path, mask)
    if not grids:
        raise _missing(space, home, folder)
    best = min(grids, key=lambda label: (abs(max(grids[label].zooms) - _REGISTRATION_MM), label))
    return OtherTemplate(space.name, space.cohort, grids[best], grids)


def _mask_name(t1w: str) -> str:
    return t1w.replace("_desc-brain", "").replace("_T1w", "_desc-brain_mask")


def _holds_something(path: Path) -> bool:
    """Check that a file exists and is not one of TemplateFlow's empty placeholders."""
    return path.is_file() and path.stat().st_size > 0


def _read_grid(t1w: Path, mask: Path) -> TemplateGrid:
    import nibabel as nb

    try:
        header = nb.nifti1.load(t1w).header
        (i, j, k), (x, y, z) = header.get_data_shape()[:3], header.get_zooms()[:3]
    except Exception as error:  # nibabel raises a dozen kinds
        raise InputError(
            f"The template {t1w} cannot be read ({error}); copy or download it again."
        ) from error
    return TemplateGrid(t1w, mask, (int(i), int(j), int(k)), (float(x), float(y), float(z)))


def _missing(space: SpaceName, home: Path, folder: Path) -> InputError:
    """Make an error that names the missing files, where they were sought and how to get them."""
    cohort = "" if space.cohort is None else f"_cohort-{space.cohort}"
    label = "" if space.resolution is None else f"_res-{int(space.resolution):02d}"
    stem = f"tpl-{space.name}{cohort}{label}"
    names = [f"{stem}_T1w.nii.gz", f"{stem}_desc-brain_mask.nii.gz"]
    absent = [name for name in names if not (folder / name).is_file()]
    state = "lacks" if absent else "has only empty placeholders for"
    wanted = f"'{space.name}', resolution=" + (space.resolution or "1")
    wanted += "" if space.cohort is None else f", cohort='{space.cohort}'"
    return InputError(
        f"The output space {space.name} needs {' and '.join(names)}, but {folder} {state} "
        f"{' and '.join(absent or names)}. neuroferry does not download templates. On a machine "
        "with network access, download them into that folder first: TEMPLATEFLOW_HOME="
        f'{home} python -c "from templateflow.api import get; get({wanted}, desc=None, '
        f"suffix='T1w', extension='nii.gz'); get({wanted}, desc='brain', suffix='mask', "
        f"extension='nii.gz')\". Or choose a built-in space: {_own_spaces()}.",
        exit_code=ExitCode.NO_INPUT,
    )

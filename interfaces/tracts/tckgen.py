"""Reproducible tracking with MRtrix's ``tckgen``.

``tckgen`` is reproducible only on one thread. So the work is split into parts, each with its own
seed and one thread, and joined in order: the result depends neither on the number of processors
nor on the duration of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neuroferry.interfaces.dwi.mrtrix import run_mrtrix
from neuroferry.interfaces.tracts.streamlines import Streamlines, read_streamlines

# Distance between the random seeds of consecutive runs.
SEED_STRIDE = 4096


@dataclass(frozen=True)
class Source:
    """Source that streamlines follow.

    Attributes
    ----------
    image : pathlib.Path
        Fibre orientation distributions (MRtrix's spherical harmonics), or diffusion images.
    gradients : tuple of pathlib.Path, optional
        bvec and bval of the diffusion images, in FSL's format.
    """

    image: Path
    gradients: tuple[Path, Path] | None = None

    @property
    def algorithm(self) -> str:
        """Name of ``tckgen``'s algorithm."""
        return "iFOD2" if self.gradients is None else "Tensor_Prob"


@dataclass(frozen=True)
class Tracking:
    """Tracking parameters.

    Attributes
    ----------
    step : float
        mm.
    angle : float
        Largest change of direction per step, degrees.
    cutoff : float
        Amplitude of the FOD, or FA, below which a streamline ends.
    min_length, max_length : float
        mm.
    seed : int
        Random seed.
    """

    step: float
    angle: float
    cutoff: float
    min_length: float
    max_length: float
    seed: int


@dataclass(frozen=True)
class Part:
    """Settings of one call of ``tckgen``.

    Attributes
    ----------
    name : str
        Name of its files.
    seeds : pathlib.Path
        Seed mask.
    include, exclude : tuple of pathlib.Path
        Masks that streamlines must, and must not, pass.
    n_seeds : int
        Maximum number of seeds.
    n_streamlines : int
        Maximum number of streamlines kept; 0 for all.
    min_length, max_length : float
        mm.
    """

    name: str
    seeds: Path
    include: tuple[Path, ...]
    exclude: tuple[Path, ...]
    n_seeds: int
    n_streamlines: int
    min_length: float
    max_length: float


def tckgen_command(
    source: Source, mask: Path, part: Part, tracking: Tracking, out: Path
) -> list[str]:
    """Build the command of one part.

    Parameters
    ----------
    source : Source
        Source that streamlines follow.
    mask : pathlib.Path
        Mask outside which streamlines end.
    part : Part
        Seeds and criteria of the streamlines.
    tracking : Tracking
        Tracking parameters.
    out : pathlib.Path
        ``.tck`` file.

    Returns
    -------
    list of str
    """
    command = ["tckgen", str(source.image), str(out), "-algorithm", source.algorithm]
    if source.gradients is not None:
        command += ["-fslgrad", *map(str, source.gradients)]
    command += ["-mask", str(mask), "-seed_image", str(part.seeds)]
    for path in part.include:
        command += ["-include", str(path)]
    for path in part.exclude:
        command += ["-exclude", str(path)]
    numbers = {
        "-seeds": part.n_seeds,
        "-select": part.n_streamlines,
        "-step": tracking.step,
        "-angle": tracking.angle,
        "-cutoff": tracking.cutoff,
        "-minlength": part.min_length,
        "-maxlength": part.max_length,
    }
    for option, number in numbers.items():
        command += [option, f"{number:g}" if isinstance(number, float) else str(number)]
    return command


def run_part(
    source: Source, mask: Path, part: Part, tracking: Tracking, seed: int, folder: Path
) -> Streamlines:
    """Track one part; the same seed gives the same streamlines.

    Raises
    ------
    ToolError
        If ``tckgen`` is missing or fails.
    """
    out = folder / f"{part.name}.tck"
    command = tckgen_command(source, mask, part, tracking, out)
    run_mrtrix(command, folder=folder, seed=seed)
    streamlines = read_streamlines(out)
    out.unlink()
    return streamlines


def track(
    source: Source,
    mask: Path,
    parts: Sequence[Part],
    tracking: Tracking,
    folder: Path,
    n_procs: int = 1,
) -> list[Streamlines]:
    """Track all parts, several in parallel.

    Parameters
    ----------
    source : Source
        Source that streamlines follow.
    mask : pathlib.Path
        Mask outside which streamlines end.
    parts : sequence of Part
        Seeds and criteria of the streamlines.
    tracking : Tracking
        Tracking parameters.
    folder : pathlib.Path
        Folder for intermediate files.
    n_procs : int
        Parts in parallel; does not change the result.

    Returns
    -------
    list of Streamlines
        Streamlines of each part.
    """

    def one(numbered: tuple[int, Part]) -> Streamlines:
        number, part = numbered
        seed = (tracking.seed * SEED_STRIDE + number) % 2**32
        return run_part(source, mask, part, tracking, seed, folder)

    with ThreadPoolExecutor(n_procs) as pool:
        return list(pool.map(one, enumerate(parts)))

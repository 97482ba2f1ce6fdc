"""MRtrix's ``tckgen``: what it is asked, and streamlines that repeat themselves.

``tckgen`` repeats itself only on one thread. So the work is cut into parts, each with a seed
of its own, on one thread, and joined in order: the result depends neither on the number of
processors nor on how long a part takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neuroferry.interfaces.dwi.mrtrix import run_mrtrix
from neuroferry.interfaces.tracts.streamlines import Streamlines, read_streamlines

# Seeds of the parts are this far apart from run to run.
SEED_STRIDE = 4096


@dataclass(frozen=True)
class Source:
    """What streamlines follow.

    Attributes
    ----------
    image : pathlib.Path
        Fibre orientation distributions (spherical harmonics of MRtrix), or diffusion images.
    gradients : tuple of pathlib.Path, optional
        bvec and bval of diffusion images, as FSL writes them.
    """

    image: Path
    gradients: tuple[Path, Path] | None = None

    @property
    def algorithm(self) -> str:
        """Name of ``tckgen``'s algorithm."""
        return "iFOD2" if self.gradients is None else "Tensor_Prob"


@dataclass(frozen=True)
class Tracking:
    """How streamlines are followed.

    Attributes
    ----------
    step : float
        mm.
    angle : float
        Largest change of direction in a step, degrees.
    cutoff : float
        Amplitude of the FOD, or FA, below which a streamline ends.
    min_length, max_length : float
        mm.
    seed : int
        Of all random numbers.
    """

    step: float
    angle: float
    cutoff: float
    min_length: float
    max_length: float
    seed: int


@dataclass(frozen=True)
class Part:
    """One call of ``tckgen``.

    Attributes
    ----------
    name : str
        Of its files.
    seeds : pathlib.Path
        Mask in which streamlines start.
    include, exclude : tuple of pathlib.Path
        Masks that streamlines must, and must not, pass.
    n_seeds : int
        How many streamlines are started at most.
    n_streamlines : int
        How many are kept at most; 0 for all.
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
    """Write the command of one part.

    Parameters
    ----------
    source : Source
        What streamlines follow.
    mask : pathlib.Path
        Where they end.
    part : Part
        Which streamlines.
    tracking : Tracking
        How.
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
        If ``tckgen`` is not there or fails.
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
    """Track all parts, several at a time.

    Parameters
    ----------
    source : Source
        What streamlines follow.
    mask : pathlib.Path
        Where they end.
    parts : sequence of Part
        Which streamlines.
    tracking : Tracking
        How.
    folder : pathlib.Path
        For what lies between.
    n_procs : int
        Parts at a time; does not change the result.

    Returns
    -------
    list of Streamlines
        Of each part.
    """

    def one(numbered: tuple[int, Part]) -> Streamlines:
        number, part = numbered
        seed = (tracking.seed * SEED_STRIDE + number) % 2**32
        return run_part(source, mask, part, tracking, seed, folder)

    with ThreadPoolExecutor(n_procs) as pool:
        return list(pool.map(one, enumerate(parts)))

"""Everything that can go wrong with a user's input, as reason codes with a sentence each."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a candidate (or a whole input file) could not be used, or why its model is not ``good``.

    The value is what stands in catalogues and ``fit.json``; `sentence` says it to a person.
    """

    FILE_MISSING = "file_missing"
    FILE_TRUNCATED = "file_truncated"
    FILE_UNREADABLE = "file_unreadable"
    LAYOUT_UNKNOWN = "layout_unknown"
    SHAPE_MISMATCH = "shape_mismatch"
    TABLE_LENGTH = "table_length"
    COLUMN_MISSING = "column_missing"
    BAND_MISSING = "band_missing"
    BAND_UNUSABLE = "band_unusable"
    IMAGE_CONSTANT = "image_constant"
    NOISE_INVALID = "noise_invalid"
    PSF_MISSING = "psf_missing"
    PSF_TOO_LARGE = "psf_too_large"
    PSF_NOT_NORMALISED = "psf_not_normalised"
    PIXEL_SCALE_UNKNOWN = "pixel_scale_unknown"
    ID_INVALID = "id_invalid"
    ID_DUPLICATE = "id_duplicate"
    LABEL_INVALID = "label_invalid"
    NO_LENS_FOUND = "no_lens_found"
    TASK_CRASHED = "task_crashed"
    TIME_LIMIT = "time_limit"
    INTERNAL_ERROR = "internal_error"

    PARAMETER_AT_BOUND = "parameter_at_bound"
    LOW_MAGNIFICATION = "low_magnification"
    SOURCE_TOO_LARGE = "source_too_large"
    STARTS_DISAGREE = "starts_disagree"
    LIGHT_MODELS_DISAGREE = "light_models_disagree"
    MASS_LIGHT_MISALIGNED = "mass_light_misaligned"
    MASK_DISAGREES = "mask_disagrees"
    NOT_CONVERGED = "not_converged"
    ARC_FAINT = "arc_faint"
    ARC_TOO_FAINT = "arc_too_faint"
    LENSTRONOMY_DISAGREES = "lenstronomy_disagrees"
    NO_FINITE_START = "no_finite_start"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES: dict[Reason, str] = {
    Reason.FILE_MISSING: "A file named in the workflow or folder is not there.",
    Reason.FILE_TRUNCATED: "The file ends before its header says it does.",
    Reason.FILE_UNREADABLE: "The file cannot be read in the format its name and header claim.",
    Reason.LAYOUT_UNKNOWN: "The file has none of the layouts that convert knows.",
    Reason.SHAPE_MISMATCH: "Arrays that belong together have different shapes.",
    Reason.TABLE_LENGTH: "The catalogue has a different number of rows than there are images.",
    Reason.COLUMN_MISSING: "The catalogue lacks a column that is needed.",
    Reason.BAND_MISSING: "A band that the survey lists is not in the data.",
    Reason.BAND_UNUSABLE: "Fewer than half of the pixels of a band are usable.",
    Reason.IMAGE_CONSTANT: "All pixels of a band have the same value.",
    Reason.NOISE_INVALID: "The noise is zero, negative or not a number everywhere.",
    Reason.PSF_MISSING: "No PSF is given, neither as an image nor as a FWHM.",
    Reason.PSF_TOO_LARGE: "The PSF image is larger than the image itself.",
    Reason.PSF_NOT_NORMALISED: "The PSF sums to something more than 10 % away from 1.",
    Reason.PIXEL_SCALE_UNKNOWN: "The pixel scale is neither stated nor in the header.",
    Reason.ID_INVALID: "The id holds characters that are not allowed in a file name.",
    Reason.ID_DUPLICATE: "The same id stands for two different images.",
    Reason.LABEL_INVALID: "A mask holds a value that stands for no class.",
    Reason.NO_LENS_FOUND: "No pixels were recognised as a lens galaxy.",
    Reason.TASK_CRASHED: "The process that worked on it died, also when it was tried alone.",
    Reason.TIME_LIMIT: "It did not end within the time limit.",
    Reason.INTERNAL_ERROR: "An error inside lenspipe; the log holds its traceback.",
    Reason.PARAMETER_AT_BOUND: "A parameter of the best model lies at the edge of its prior.",
    Reason.LOW_MAGNIFICATION: "The model magnifies its source too little to be sure that it is lensed.",
    Reason.SOURCE_TOO_LARGE: "The source is so large that it may stand in for the lens galaxy's own light.",
    Reason.STARTS_DISAGREE: "Starts with almost equal likelihood end at different Einstein radii.",
    Reason.LIGHT_MODELS_DISAGREE: "Other models of the lens light lead to other Einstein radii.",
    Reason.MASS_LIGHT_MISALIGNED: "The ellipticities of mass and light differ more than they do in known lenses.",
    Reason.MASK_DISAGREES: "The model's arc and the segmented arc hardly overlap.",
    Reason.NOT_CONVERGED: "The sampler did not meet its stopping rule within its step limit.",
    Reason.ARC_FAINT: "The modelled arc is so faint that the errors are far from Gaussian.",
    Reason.ARC_TOO_FAINT: "The modelled arc is too faint against the noise to carry a model.",
    Reason.LENSTRONOMY_DISAGREES: "lenstronomy gives another likelihood for the best model.",
    Reason.NO_FINITE_START: "No starting point has a finite likelihood.",
}


class LenspipeError(Exception):
    """A user's mistake that stops a command before or while it runs; printed as one sentence, exit code 2."""


class CandidateError(Exception):
    """One candidate (or input file) that cannot be used; everything else goes on.

    Parameters
    ----------
    reason : the code that stands in the catalogue.
    detail : one sentence naming file, row and what was found.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Interrupted(Exception):
    """A task was asked to end and has kept what it had; started again, it goes on from there."""


class RanksLost(Exception):
    """Processes that did a task together are not all there any more; one sentence."""

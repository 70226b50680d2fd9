"""Warnings of an accepted specification, as Python tells warnings: at the line that submitted it."""

from __future__ import annotations

import warnings

from secateur._job import Job


class SpecWarning(UserWarning):
    """A specification was accepted, and something in it may not do what was meant: too little text, a weight of 0.

    `Client.submit` and `Client.prune` emit one for each of `Job.estimate.warnings`; `Client.plan` only returns them.
    `warnings.simplefilter("error", secateur.SpecWarning)` makes them errors, raised when the job is submitted already.
    """


def warn_of(job: Job, *, stacklevel: int) -> None:
    """Emit the warnings of a job's specification.

    Args:
        job: The job.
        stacklevel: Whose line is named: 1 for the caller of this function.
    """
    for text in job.estimate.warnings if job.estimate else ():
        warnings.warn(text, SpecWarning, stacklevel=stacklevel + 1)

"""Admission: everything that can be checked about a job before it runs is checked at once. Imports no torch.

`spec` has the rules that a specification must obey by itself. This part adds those that depend on what it names and on
where it would run:

    admitting     the steps, in order, and the resolved specification
    access        what jobs may name, and what the slots here have
    review        the model, the corpora, the tasks, the plan, the destination: whether they are there and fit together
    text          whether the corpora have as much text as the job draws
    room          whether the job fits into a slot
    destinations  whether results can be written where they are to go
"""

from secateur_service.admission.access import AccessPolicy, disk_of
from secateur_service.admission.admitting import Admission, admit
from secateur_service.admission.review import MODEL_CHECKS, LastModel

__all__ = ["MODEL_CHECKS", "AccessPolicy", "Admission", "LastModel", "admit", "disk_of"]

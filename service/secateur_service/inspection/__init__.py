"""Inspects untrusted input in separate processes, with a budget of time and memory, and a share for each caller.

A specification names models and text that anybody may have written. Input can be crafted to make its reader use
unlimited time or memory, and a thread can be neither stopped nor limited. So the server reads none of it itself:

    pool      admits specifications: chooses a lane, waits for a slot, interprets the death of a child
    shares    decides whose turn is next
    children  starts, asks and kills the processes
    zygote    the process that they are forked from, with everything loaded
    child     what a child does: answers one request after the other
    budget    what a child may use
"""

from secateur_service.inspection.pool import InspectionPool

__all__ = ["InspectionPool"]

"""Looking at what others wrote, in processes of its own: with a budget of time and memory, and a share for each caller.

A specification names models and text that anybody may have written. Whatever reads them could be made to take all the
time or memory there is, and a thread can neither be stopped nor limited. So the server looks at nothing itself:

    pool      admits specifications: chooses a lane, waits for a share of it, says what a death meant
    shares    who may go next
    children  the processes: started, asked, killed
    zygote    the process that they are forked from, with everything loaded
    child     what one does: answers one request after the other
    budget    what it may use
"""

from secateur_service.inspection.pool import InspectionPool

__all__ = ["InspectionPool"]

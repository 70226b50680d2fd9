"""The command `secateur`: submits prune jobs, watches them and fetches what they publish.

Exit codes:

    0    done; where a job was watched: it succeeded
    1    the job failed
    2    the command line or the configuration is wrong
    3    the specification breaks rules
    4    there is no such job
    5    the service, or the store that its results go to, cannot be reached, is overloaded or did not answer in time
    6    the job was cancelled
    7    the service refused for another reason, which the message says, such as a hub that it cannot reach
    8    a file could not be downloaded, or is not what was published (`download`, `verify`)
    9    the service requires a token, or does not take the one that it was shown
    10   `gate`: a language or a task lost more than it may; `sweep`: in every job one did
    124  a watch ended before the job, after its `--timeout`; the job goes on
    130  interrupted by Ctrl-C; a job that was watched goes on

Data goes to the standard output, everything else to the standard error.
"""

from secateur.cli._app import main

__all__ = ["main"]

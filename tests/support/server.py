"""`secateur-service serve` whose processes are other programs: `server.py COMMANDS FLAGS ...`, COMMANDS being JSON."""

import json
import sys

from secateur_service.executors import local
from secateur_service.inspection import children


def serve(commands, arguments):
    """Be the server; `commands` start its `worker` and its `zygote`."""
    be("serve", commands, arguments)


def be(command, commands, arguments):
    """Be `secateur-service COMMAND`, `serve` or `agent`."""
    local.WORK_COMMAND = tuple(commands.get("worker", local.WORK_COMMAND))
    children.ZYGOTE_COMMAND = tuple(commands.get("zygote", children.ZYGOTE_COMMAND))
    sys.argv = ["secateur-service", command, *arguments]
    from secateur_service.commands.main import main  # reads the commands above

    main()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), sys.argv[2:])

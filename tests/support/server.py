"""`secateur-service serve` whose workers are another program: `server.py WORKER FLAGS ...`, WORKER being JSON."""

import json
import sys

from secateur_service.executors import local

if __name__ == "__main__":
    local.WORK_COMMAND = tuple(json.loads(sys.argv[1]))
    sys.argv = ["secateur-service", "serve", *sys.argv[2:]]
    from secateur_service.commands.main import main  # reads the command above

    main()

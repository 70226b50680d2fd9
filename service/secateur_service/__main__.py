"""The entry point of `secateur-service`, and of `python -m secateur_service`, with which the executor starts workers.

One distribution holds the SDK and the service, so the SDK alone has this command too, without what it needs. Nothing
outside the standard library and the SDK may be imported here before that is known.
"""

from __future__ import annotations

import sys

from secateur._terminal import say

EXIT_NOT_INSTALLED = 2
_OURS = ("secateur", "secateur_service")


def main() -> None:
    """Run the command, or say what to install for it."""
    try:
        from secateur_service.commands.main import main as run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in _OURS:
            raise
        say(
            f"secateur-service needs the package {missing}, which is not installed: pip install 'secateur[service]', "
            "or 'secateur[api]' for a replica without device slots; in a checkout, pip install '.[service]'"
        )
        sys.exit(EXIT_NOT_INSTALLED)


if __name__ == "__main__":
    main()

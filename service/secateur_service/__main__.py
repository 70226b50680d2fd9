"""`python -m secateur_service`: the command with which the executor starts workers."""

from secateur_service.commands.main import main

if __name__ == "__main__":
    main()

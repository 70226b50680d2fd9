"""`python -m secateur_service`: the command that the executor starts workers with."""

from secateur_service.commands.main import main

if __name__ == "__main__":
    main()

"""`python -m secateur_service`: the command that the executor starts workers with."""

from secateur_service.cli import main

if __name__ == "__main__":
    main()

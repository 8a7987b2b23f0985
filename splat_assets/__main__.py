"""`python -m splat_assets …`: the command line where the program is not on the PATH."""

from splat_assets.cli import main

if __name__ == "__main__":
    main()

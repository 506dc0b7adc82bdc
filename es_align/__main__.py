"""`python -m es_align` is the command line."""

from es_align.cli import main

if __name__ == "__main__":
    main()

"""`python -m dask_runner`."""

from dask_runner.cli import main

if __name__ == "__main__":
    main()

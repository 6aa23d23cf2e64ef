"""`python -m diffpolicy` is the console command `diffpolicy`."""

import sys


def main() -> int:
    """Run the command line and return its exit status: 0 done, 1 the job failed, 2 the command was wrong."""
    from diffpolicy.cli.dispatch import dispatch

    return dispatch(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

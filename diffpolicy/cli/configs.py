"""Where the configuration files are: inside the installed package, or at the top of a checkout."""

from pathlib import Path


def config_folder() -> Path:
    """Return the absolute folder of the shipped configs; FileNotFoundError if the installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(f"the configs are missing beside {package}: install diffpolicy again")

"""Shell completion for the whole command: verbs here, and after a verb its groups and keys by Hydra."""

import os
from collections.abc import Mapping, Sequence

from diffpolicy.cli.verbs import Verb


def complete(request: Sequence[str], verbs: Mapping[str, Verb]) -> int:
    """Answer `diffpolicy -sc install=SHELL` with a script to source, `query=SHELL` with candidates; return 0.

    The shell gives the line typed so far in COMP_LINE, as it does to any program of Hydra's.
    """
    from diffpolicy.cli.hydra_verb import environment, run_hydra

    hydra_verbs = [name for name, verb in verbs.items() if verb.arguments == "hydra"]
    if not any(word.startswith("query=") for word in request):
        return run_hydra(hydra_verbs[0], verbs[hydra_verbs[0]], ["-sc", *request])
    program, _, typed = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
    name, blank, rest = typed.lstrip().partition(" ")
    if not blank:
        print("\n".join(verb for verb in verbs if verb.startswith(name)))
        return 0
    if name not in hydra_verbs:
        return 0
    with environment(COMP_LINE=f"{program} {rest}"):
        return run_hydra(name, verbs[name], ["-sc", *request])

"""A policy server that goes in circles, as a process of its own that a test can kill: `serving_toy.py PORT`."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from controlling import Circle

from diffpolicy.deploy.server import PolicyServer, ServerConfig


async def main() -> None:
    server = PolicyServer(Circle(), ServerConfig(port=int(sys.argv[1])))
    await server.run(asyncio.Event(), lambda url: print(url, flush=True))


asyncio.run(main())

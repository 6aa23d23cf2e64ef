"""Diffusion policies trained offline, constrained by feasibility, and handed over with a certificate."""

__version__ = "0.1.0"

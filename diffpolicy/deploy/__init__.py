"""Policies on robots: export, policy server, controller runtime, shield."""

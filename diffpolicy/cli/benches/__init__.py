"""The benches: a module each, measured by `diffpolicy bench NAME`."""

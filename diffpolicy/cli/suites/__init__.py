"""The suites of `diffpolicy benchmark`, one module each."""

"""Pure functions from a completion to a number."""

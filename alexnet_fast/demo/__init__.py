"""The embedded data set and the two-command tour."""

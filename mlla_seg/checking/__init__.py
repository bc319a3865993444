"""The command check: everything that is wrong with a data set, before time is spent on training."""

"""The command benchmark: time and memory of this project's and other networks."""

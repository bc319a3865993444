"""Time and memory of networks, ours and others: ``python cli.py benchmark``."""

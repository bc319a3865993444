"""Adapters for other libraries; importing one registers the MLLA encoders in that library's registry."""

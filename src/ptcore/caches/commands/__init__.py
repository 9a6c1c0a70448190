"""Invalidation commands, one file per vendor: what each must drop, and what pays for an edit."""

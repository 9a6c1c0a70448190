"""Recorded accesses, read in chunks from the formats of other tools."""

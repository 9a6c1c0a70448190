"""Floor 7: ptcore inside other people's tools. A module here imports its host, and nothing else does."""

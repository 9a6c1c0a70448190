"""One file per CPU: geometry, a source and a confidence per field."""

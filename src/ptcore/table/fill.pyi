"""A lowered format as the C struct that the engine reads; for other compiled rooms only (fill.pxd)."""

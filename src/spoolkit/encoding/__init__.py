"""Values to bytes and bytes to values, without input or output."""

"""The rules that come with jaxpress, one subject per file."""

"""What people look at: figures, tables, and the list of a compiled step."""

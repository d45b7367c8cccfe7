"""Write the pages of docs/reference."""

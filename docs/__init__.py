"""The documentation: pages in Markdown, and the generators of their generated parts."""

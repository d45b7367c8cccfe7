"""Models of a few kilobytes with the files and the shapes of real ones."""

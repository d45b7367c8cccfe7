"""Modules that the aoti programs share. They import no module of the farm, so any interpreter with torch runs them."""

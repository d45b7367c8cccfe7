"""`make demo`: show the farm on a real model. Nothing of the farm imports this."""

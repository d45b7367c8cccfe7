"""What the programs share. Imports nothing of the farm, so any interpreter that has torch can run them."""

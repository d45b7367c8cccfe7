"""One attempt on its stage: what it is refused for, its steps, and the rows that its output fills."""
